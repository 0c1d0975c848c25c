// Draws the tables and charts of the data in this file. Text enters the page as text only, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const MISSING = "–", PAGE = 100, LONG = 250, PRINTED = 40, FEW = 6, SELECTABLE = 30;
  const PAPER = 1030; // what fits across a sheet, in CSS pixels
  const QUOTED = 1, BEST = 2;

  /** Return a new element; children are elements or text. */
  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  // -- entries: [kind, source, text, value, low, high, n, stale]; sources: see content.py ---------------------------

  const kindOf = (n) => data.kinds[data.entries[n][0]];
  const statusLook = (n) => ({ ok: "", unsupported: " refused" })[kindOf(n).status] ?? " failed";

  // -- one table ----------------------------------------------------------------------------------------------------

  class View {
    constructor(spec, title, id) {
      Object.assign(this, { spec, title, id, page: 0, sorted: null, chosen: new Map(), words: [], printing: false });
      this.all = spec.rows.map((_, n) => n);
      this.order = this.all;
      this.columns = spec.columns.map((_, n) => n);
      this.size = spec.all ? PAGE : LONG;
      this.room = spec.columns.map((_, c) => this.marksWidth(c));
      this.figure = this.build();
      this.refresh();
    }

    marksWidth(c) {
      let most = 0;
      if (this.spec.columns[c].metric) for (const row of this.spec.rows) most = Math.max(most, (row[c] && row[c][2] || "").length);
      return most;
    }

    build() {
      this.head = el("tr");
      this.body = el("tbody");
      this.count = el("span", { class: "count", "aria-live": "polite" });
      const table = el("table", { "aria-label": this.title }, el("thead", {}, this.head), this.body);
      this.table = table;
      this.box = el("div", { class: "box", role: "region", tabindex: "0", "aria-label": `${this.title}, scrolls sideways` }, table);
      table.addEventListener("click", (event) => this.open(event.target.closest(".cell")));
      table.addEventListener("keydown", (event) => this.key(event));
      table.addEventListener("focusin", (event) => this.rove(event.target.closest(".cell")));
      this.cut = el("p", { class: "cut" });
      const notes = [...this.spec.notes.map((text, n) => `[${n + 1}] ${text}`), ...this.spec.footer];
      return el("figure", { id: this.id, class: this.spec.all ? "all" : null },
        this.spec.all ? null : el("h3", {}, this.title),
        this.spec.rows.length >= FEW ? this.controls() : null, this.box, this.pager(),
        el("div", { class: "notes" }, this.cut, ...notes.map((text) => el("p", {}, text))));
    }

    controls() {
      const input = el("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter the rows of ${this.title}`, spellcheck: "false" });
      input.addEventListener("input", () => {
        this.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        this.filter();
      });
      const selects = this.spec.columns.map((column, c) => [column, c]).filter(([column]) => !column.metric &&
        column.values.length >= 2 && column.values.length <= SELECTABLE).map(([column, c]) => this.select(column, c));
      if (this.spec.all) selects.push(...this.statuses());
      const open = this.spec.all && !matchMedia("(max-width: 40rem)").matches;
      const more = selects.length ? el("details", { open }, el("summary", {}, "More filters"), el("div", { class: "more" }, ...selects)) : null;
      return el("div", { class: "controls" }, input, this.count, more);
    }

    select(column, c) {
      const byRank = column.values.map((text, n) => [text, n]).sort((a, b) => compare(column.ranks[a[1]], column.ranks[b[1]], 1));
      return this.chooser(column.head, byRank.map(([text, n]) => [text, String(n)]), (row, value) => place(row[c]) === Number(value), c);
    }

    statuses() {
      const found = new Set();
      for (const row of this.spec.rows) for (const c of this.columns) if (this.spec.columns[c].metric && row[c] && row[c][0] >= 0) found.add(kindOf(row[c][0]).status);
      if (found.size < 2) return [];
      const has = (row, status) => this.columns.some((c) => this.spec.columns[c].metric && row[c] && row[c][0] >= 0 && kindOf(row[c][0]).status === status);
      return [this.chooser("Status", [...found].sort().map((s) => [s, s]), has, "status")];
    }

    chooser(label, options, test, key) {
      const select = el("select", {}, el("option", { value: "" }, "all"), ...options.map(([text, value]) => el("option", { value }, text)));
      select.addEventListener("change", () => {
        if (select.value) this.chosen.set(key, (row) => test(row, select.value)); else this.chosen.delete(key);
        this.filter();
      });
      return el("label", {}, label, select);
    }

    pager() {
      const step = (text, by) => {
        const button = el("button", { type: "button" }, text);
        button.addEventListener("click", () => { this.page += by; this.draw(); this.box.scrollTop = 0; });
        return button;
      };
      [this.back, this.next] = [step("Previous", -1), step("Next", 1)];
      this.where = el("span", { class: "count", "aria-live": "polite" });
      this.pages = el("div", { class: "pager" }, this.back, this.next, this.where);
      return this.pages;
    }

    // -- which rows, in which order

    searchable(n) {
      this.haystack ||= [];
      return this.haystack[n] ||= this.spec.rows[n].map((cell, c) => this.textOf(cell, c)).join(" ").toLowerCase();
    }

    textOf(cell, c) {
      const column = this.spec.columns[c];
      if (cell === null) return MISSING;
      if (typeof cell === "number") return column.values[cell];
      return column.metric ? cell[1] : column.values[cell[0]];
    }

    filter() {
      const tests = [...this.chosen.values()];
      this.all = [];
      this.spec.rows.forEach((row, n) => {
        if (tests.every((test) => test(row)) && this.words.every((word) => this.searchable(n).includes(word))) this.all.push(n);
      });
      this.page = 0;
      this.refresh();
    }

    refresh() {
      this.order = this.sorted ? this.sortedRows() : this.all;
      this.draw();
    }

    /** Return the columns that have something to show in some rows; a declared table shows all that it declares. */
    used(rows) {
      const has = (c) => !this.spec.columns[c].metric || rows.some((n) => this.spec.rows[n][c] !== null);
      return this.spec.all && rows.length ? this.columns.filter(has) : this.columns;
    }

    sortedRows() {
      const { column, down } = this.sorted, key = this.keyOf(column), sign = down ? -1 : 1;
      return this.all.map((n) => [key(this.spec.rows[n][column]), n]).sort((a, b) => compare(a[0], b[0], sign) || a[1] - b[1]).map((pair) => pair[1]);
    }

    keyOf(c) {
      const column = this.spec.columns[c];
      if (!column.metric) return (cell) => column.ranks[place(cell)];
      return (cell) => cell === null ? null : cell[0] < 0 ? cell[4] : valueOf(cell[0]);
    }

    sort(c) {
      const now = this.sorted;
      this.sorted = !now || now.column !== c ? { column: c, down: false } : now.down ? null : { column: c, down: true };
      this.page = 0;
      this.refresh();
      this.head.querySelector(`[data-column="${c}"]`).focus();
    }

    // -- drawing

    drawHead() {
      this.head.replaceChildren(...this.shown.map((c) => {
        const column = this.spec.columns[c], now = this.sorted && this.sorted.column === c;
        // Chromium leaves buttons out of a head that it repeats on the next sheet.
        const button = el(this.printing ? "span" : "button", { type: "button", "data-column": c, title: "Sort" }, column.head);
        button.addEventListener("click", () => this.sort(c));
        const th = el("th", { scope: "col", class: column.metric ? "n" : null, "aria-sort": now ? this.sorted.down ? "descending" : "ascending" : "none" }, button);
        this.widen(button, c);
        return th;
      }));
    }

    widen(element, c) {
      if (this.room[c]) element.style.setProperty("padding-right", `${(1 + .42 * this.room[c]).toFixed(2)}rem`);
    }

    draw() {
      const pages = Math.max(1, Math.ceil(this.order.length / this.size));
      this.page = Math.min(this.page, pages - 1);
      const first = this.page * this.size, last = Math.min(first + this.size, this.order.length);
      let rows = this.order.slice(first, last);
      if (this.printing) rows = this.spec.all ? this.order.slice(0, PRINTED) : this.order;
      this.shown = this.used(this.printing ? rows : this.all);
      this.drawHead();
      const lines = rows.map((n, r) => this.line(n, r));
      if (!lines.length) {
        const why = this.spec.rows.length ? "No row fits the filters." : "There are no records.";
        lines.push(el("tr", {}, el("td", { class: "empty", colspan: this.shown.length }, why)));
      }
      this.body.replaceChildren(...lines);
      const start = this.body.querySelector(".cell");
      if (start) start.tabIndex = 0;
      const total = this.spec.rows.length, whole = this.all.length === total;
      this.count.textContent = whole ? `${number(total)} rows` : `${number(this.all.length)} of ${number(total)} rows`;
      this.pages.hidden = pages === 1;
      this.where.textContent = `Rows ${number(first + 1)} to ${number(last)} of ${number(this.order.length)}`;
      [this.back.disabled, this.next.disabled] = [this.page === 0, this.page === pages - 1];
    }

    line(n, r) {
      return el("tr", {}, ...this.shown.map((c, at) => {
        const cell = this.spec.rows[n][c];
        if (this.spec.columns[c].metric) return this.number(cell, n, c, r);
        const text = this.textOf(cell, c), marks = Array.isArray(cell) && cell[1];
        const inner = [text, marks ? el("span", { class: "mark" }, marks) : null];
        const look = looks("axis", Array.isArray(cell) ? cell[2] : 0) + (text === MISSING ? " none" : "");
        return at ? el("td", { class: look }, ...inner) : el("th", { scope: "row", class: look, title: text.length > 28 ? text : null }, ...inner);
      }));
    }

    number(cell, n, c, r) {
      if (cell === null) return el("td", { class: "n none" }, MISSING);
      const [entry, text, marks, flags] = cell, mark = marks ? el("span", { class: "mark" }, marks) : null;
      const td = el("td", { class: looks("n", flags) });
      this.widen(td, c);
      if (entry < 0) {
        td.append(el("span", { class: "cell" }, text, ...(mark ? [mark] : [])));
        td.firstChild.classList.replace("cell", "axis");
        return td;
      }
      td.append(el("span", { class: `cell${statusLook(entry)}`, role: "button", tabindex: "-1", "aria-haspopup": "dialog",
        "data-entry": entry, "data-row": n, "data-r": r, "data-c": c }, text, ...(mark ? [mark] : [])));
      return td;
    }

    // -- keys

    rove(cell) {
      if (!cell || !cell.dataset.entry) return;
      for (const other of this.body.querySelectorAll('.cell[tabindex="0"]')) other.tabIndex = -1;
      cell.tabIndex = 0;
    }

    key(event) {
      const cell = event.target.closest(".cell");
      if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.open(cell); return; }
      const to = this.neighbour(cell, event.key);
      if (to === undefined) return;
      event.preventDefault();
      if (to) to.focus();
    }

    neighbour(cell, key) {
      const { r, c } = cell.dataset, inRow = [...this.body.querySelectorAll(`.cell[data-r="${r}"]`)];
      const inColumn = [...this.body.querySelectorAll(`.cell[data-c="${c}"]`)];
      const at = (list, by) => list[list.indexOf(cell) + by] || null;
      switch (key) {
        case "ArrowRight": return at(inRow, 1);
        case "ArrowLeft": return at(inRow, -1);
        case "ArrowDown": return at(inColumn, 1);
        case "ArrowUp": return at(inColumn, -1);
        case "Home": return inRow[0];
        case "End": return inRow[inRow.length - 1];
        default: return undefined;
      }
    }

    open(cell) {
      if (!cell || cell.dataset.entry === undefined) return;
      this.rove(cell);
      cell.focus();
      showSource(Number(cell.dataset.entry), this.nameOf(Number(cell.dataset.row)));
    }

    nameOf(n) {
      const at = this.spec.columns.findIndex((column) => column.name === "model");
      const c = at >= 0 ? at : this.spec.columns.findIndex((column) => !column.metric);
      return c >= 0 ? this.textOf(this.spec.rows[n][c], c) : "";
    }

    // -- print

    print(on) {
      this.printing = on;
      this.draw();
      const cut = on && this.spec.all && this.order.length > PRINTED;
      this.cut.textContent = cut ? `Printed here: the first ${PRINTED} of ${number(this.order.length)} rows. The file itself holds all of them.` : "";
      this.table.style.setProperty("--shrink", on ? Math.max(.45, Math.min(1, PAPER / this.table.offsetWidth)).toFixed(3) : "1");
    }
  }

  const place = (cell) => Array.isArray(cell) ? cell[0] : cell;
  const number = (n) => n.toLocaleString("en-US");
  const exact = (n) => typeof n === "string" ? BigInt(n).toLocaleString("en-US") : Number.isInteger(n) ? number(n) : String(n);
  const short = (n) => exact(typeof n === "number" ? Number(n.toPrecision(7)) : n);
  const valueOf = (entry) => typeof data.entries[entry][3] === "string" ? Number(data.entries[entry][3]) : data.entries[entry][3];
  const looks = (base, flags) => base + (flags & QUOTED ? " quoted" : "") + (flags & BEST ? " best" : "");

  /** Compare two numbers; what is missing is last either way. */
  function compare(a, b, sign) {
    const [noA, noB] = [a === null || a === undefined, b === null || b === undefined];
    return noA || noB ? noA - noB : sign * (a - b);
  }

  // -- where a number comes from ------------------------------------------------------------------------------------

  const dialog = document.getElementById("source");
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  function showSource(n, name) {
    const close = el("button", { type: "button", class: "close" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const [, , text] = data.entries[n], kind = kindOf(n);
    dialog.replaceChildren(close, el("h2", { id: "source-title" }, `${kind.title || kind.metric}, ${name}`),
      el("p", { class: `value${statusLook(n)}` }, text),
      el("dl", {}, ...facts(n).flatMap(([term, fact]) => [el("dt", {}, term), el("dd", {}, fact)])));
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  function facts(n) {
    const [kindAt, sourceAt, , value, low, high, count, stale] = data.entries[n], kind = data.kinds[kindAt];
    const [id, plugin, machine, time, fingerprint, conditions, command] = data.sources[sourceAt];
    const unit = kind.unit ? ` ${kind.unit}` : "", has = (x) => x !== null && x !== undefined;
    const found = [
      ["Value", has(value) ? `${exact(value)}${unit}` : ""],
      ["Interval", has(low) ? `${short(low)} to ${short(high)}${unit}${kind.interval ? `, ${kind.interval}` : ""}` : ""],
      ["Samples", has(count) && count ? `n = ${number(count)}` : ""],
      ["Sampling", kind.stop ? `stopped because ${kind.stop}` : ""],
      ["Convention", kind.convention ? kind.words ? `${kind.convention}: ${kind.words}` : kind.convention : ""],
      ["Status", kind.status],
      ["Reason", kind.reason],
      ...(kind.notes || []).map((note) => ["Note", note]),
      ["Stale", stale ? "† taken with an earlier source of the plugin than the newest value of this model; run it again" : ""],
      ["Case", id],
      ["Plugin", data.texts[plugin]],
      ["Machine", machineFact(machine)],
      ["Taken", time.replace("T", " ").replace("+00:00", " UTC")],
      ["Conditions", data.texts[conditions]],
      ["Fingerprint", Object.entries(data.fingerprints[fingerprint]).map(([k, v]) => `${k} ${v}`).join(", ")],
      ["Repeat", data.texts[command] ? el("code", {}, data.texts[command]) : ""],
    ];
    return found.filter(([, fact]) => fact);
  }

  function machineFact(n) {
    if (n < 0) return "none needed; this is counted, not measured";
    const { name, text, all } = data.machines[n];
    const list = el("dl", {}, ...all.flatMap(([term, fact]) => [el("dt", {}, term), el("dd", {}, fact)]));
    return el("div", {}, `${name}: ${text}`, all.length ? el("details", {}, el("summary", {}, "All that is known of it"), list) : null);
  }

  // -- charts -------------------------------------------------------------------------------------------------------

  const tip = document.getElementById("tip");
  const themed = globalThis.CSS && CSS.supports("color", "light-dark(#000, #fff)");

  function showTip(_, event, __, value) {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    const lines = typeof value === "object" ? Object.entries(value).filter(([, v]) => v !== "" && v !== "null").map(([k, v]) => `${k}: ${v}`) : [String(value)];
    tip.replaceChildren(...lines.map((line) => el("p", {}, line)));
    tip.style.setProperty("left", `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`);
    tip.style.setProperty("top", `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`);
  }

  /** Give every colour of a chart its likeness on dark paper; the browser chooses between the two. */
  function recoloured(part) {
    if (typeof part === "string") return /^#[0-9a-f]{6}$/i.test(part) ? `light-dark(${part}, ${onDark(part)})` : part;
    if (Array.isArray(part)) return part.map(recoloured);
    if (part && typeof part === "object") return Object.fromEntries(Object.entries(part).map(([k, v]) => [k, k === "values" ? v : recoloured(v)]));
    return part;
  }

  function onDark(hex) {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
    const high = Math.max(r, g, b), low = Math.min(r, g, b), light = (high + low) / 2, range = high - low;
    if (range < .1) return `hsl(0 0% ${Math.round(100 * (.95 - .8 * light))}%)`;
    const hue = 60 * (high === r ? (g - b) / range % 6 : high === g ? (b - r) / range + 2 : (r - g) / range + 4);
    const saturation = range / (1 - Math.abs(2 * light - 1));
    return `hsl(${Math.round(hue)} ${Math.round(100 * saturation)}% ${Math.round(100 * Math.max(.56, light))}%)`;
  }

  async function drawChart(spec, host) {
    const shown = themed ? recoloured(spec) : spec;
    if (themed) shown.config = { ...shown.config, background: "transparent" };
    try {
      await globalThis.vegaEmbed(host, shown, { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: showTip });
    } catch (error) {
      host.replaceChildren(el("p", { class: "problem" }, `This chart could not be drawn: ${error.message}`));
    }
  }

  // -- the page -----------------------------------------------------------------------------------------------------

  const views = [], charts = [];

  function partOf(part, id) {
    if (part.problem) return el("figure", { id }, part.title ? el("h3", {}, part.title) : null, el("p", { class: "problem" }, `Not shown: ${part.problem}`));
    if (part.chart) {
      const host = el("div", { class: "chart", role: "img", "aria-label": part.title });
      charts.push([part.chart, host]);
      return el("figure", { id }, host);
    }
    const view = new View(part.table, part.title, id);
    views.push(view);
    return view.figure;
  }

  function build() {
    const main = document.getElementById("main"), list = el("ol");
    data.sections.forEach((section, s) => {
      const id = `s${s}`, many = section.name !== "all";
      const parts = section.parts.map((part, p) => partOf(part, `${id}-${p}`));
      main.append(el("section", { "aria-labelledby": id }, el("h2", { id }, section.title, many && section.name !== section.title ? el("small", {}, section.name) : null), ...parts));
      const inner = many ? section.parts.map((part, p) => part.title && el("li", {}, el("a", { href: `#${id}-${p}` }, part.title))) : [];
      list.append(el("li", {}, el("a", { href: `#${id}` }, section.title), inner.length ? el("ol", {}, ...inner) : null));
    });
    document.getElementById("contents").append(list);
  }

  // -- light and dark -----------------------------------------------------------------------------------------------

  const remembered = {
    get() { try { return localStorage.getItem("attention-zoo-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("attention-zoo-theme", theme); } catch { /* asked again next time */ } },
  };

  function themes() {
    const root = document.documentElement, button = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
    const label = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
    if (["light", "dark"].includes(remembered.get())) root.dataset.theme = remembered.get();
    button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; remembered.set(root.dataset.theme); label(); });
    system.addEventListener("change", label);
    button.hidden = !themed;
    label();
  }

  themes();
  build();
  performance.mark("tables drawn");
  addEventListener("beforeprint", () => views.forEach((view) => view.print(true)));
  addEventListener("afterprint", () => views.forEach((view) => view.print(false)));
  addEventListener("load", async () => {
    for (const [spec, host] of charts) {
      await new Promise((ready) => setTimeout(ready));
      await drawChart(spec, host);
    }
    document.documentElement.dataset.drawn = "all";
  });
})();
