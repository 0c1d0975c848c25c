"""The translation plugin: what its corpora hold, that they never change, and what is wrong with a file of one's own."""

from __future__ import annotations

import hashlib
import re
from datetime import date, timedelta

import pytest
from zoo_translation.cardinals import cardinal, ordinal, year
from zoo_translation.corpus import HELD_OUT_NUMBERS, HELD_OUT_YEARS, SIZES, load, load_dates, load_numbers
from zoo_translation.dates import FORMS
from zoo_translation.files import load_files

from zoo import ZooError, texts

# -- numbers in words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (15, "fifteen"),
        (20, "twenty"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (110, "one hundred and ten"),
        (1000, "one thousand"),
        (1001, "one thousand and one"),
        (1100, "one thousand one hundred"),
        (10_010, "ten thousand and ten"),
        (100_000, "one hundred thousand"),
        (101_101, "one hundred and one thousand one hundred and one"),
        (347_281, "three hundred and forty-seven thousand two hundred and eighty-one"),
        (999_999, "nine hundred and ninety-nine thousand nine hundred and ninety-nine"),
    ],
)
def test_numbers_are_written_in_british_words(n, words):
    assert cardinal(n) == words


@pytest.mark.parametrize("n", [-1, 1_000_000])
def test_a_number_without_words_is_refused(n):
    with pytest.raises(ZooError, match=f"{n} is not written in words here; expected 0 to 999999"):
        cardinal(n)


UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORTH = dict(zip((*UNITS, *TEENS, *TENS), (*range(20), *range(20, 100, 10)), strict=True))


def read(words: str) -> int:
    """Read a number in words, by adding and multiplying from left to right."""
    total = group = 0
    for word in re.split(r"[ -]", words.replace(" and ", " ")):
        if word == "hundred":
            group *= 100
        elif word == "thousand":
            total, group = 1000 * group, 0
        else:
            group += WORTH[word]
    return total + group


def test_words_read_back_are_the_number():
    assert all(read(cardinal(n)) == n for n in [*range(12_000), *range(12_000, 1_000_000, 97)])


def test_no_two_numbers_have_the_same_words():
    assert len({cardinal(n) for n in range(20_000)}) == 20_000


def test_targets_of_the_corpus_are_their_sources_read_back():
    assert all(read(target) == int(source) for split in SIZES for source, target in load_numbers(split))


def test_ordinals_of_a_month():
    assert " ".join(ordinal(n) for n in (1, 2, 3, 4, 5, 8, 9, 11, 12, 13, 20, 21, 22, 23, 30, 31)) == (
        "first second third fourth fifth eighth ninth eleventh twelfth thirteenth twentieth "
        "twenty-first twenty-second twenty-third thirtieth thirty-first"
    )


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1900, "nineteen hundred"),
        (1905, "nineteen oh five"),
        (1974, "nineteen seventy-four"),
        (2000, "two thousand"),
        (2004, "two thousand and four"),
        (2010, "twenty ten"),
        (2099, "twenty ninety-nine"),
    ],
)
def test_years_are_written_as_they_are_said(n, words):
    assert year(n) == words


# -- dates ---------------------------------------------------------------------------------------------------


def test_a_date_in_every_form():
    assert [form(date(2014, 3, 3)) for form in FORMS] == [
        "3 March 2014",
        "March 3, 2014",
        "March 3rd, 2014",
        "Monday, 3 March 2014",
        "Mon 3 Mar 2014",
        "03-Mar-2014",
        "20140303",
        "the third of March 2014",
        "the third of March, twenty fourteen",
    ]


def test_figures_of_ordinals_end_as_they_are_said():
    said = [FORMS[2](date(2024, 1, day)).split()[1] for day in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30, 31)]
    assert " ".join(said) == "1st, 2nd, 3rd, 4th, 11th, 12th, 13th, 21st, 22nd, 23rd, 30th, 31st,"


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ORDINALS = {ordinal(n): n for n in range(1, 32)}
YEARS = {year(n): n for n in range(1900, 2100)}


def parse(text: str) -> str:
    """Read a date in any of the forms by its parts: a year, the name of a month, and what is left, the day."""
    if re.fullmatch(r"\d{8}", text):
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    text = re.sub(r"^(mon|tue|wed|thu|fri|sat|sun)\w*,? ", "", text.lower())
    text, spoken = text.split(", ") if "the " in text and "," in text else (text, "")
    words = [word for word in re.split(r"[ ,]+|(?<=\d)-|(?<=[a-z])-(?=\d)", text) if word not in ("the", "of")]
    named = next(word for word in words if word[:3] in MONTHS)
    words.remove(named)
    years = YEARS[spoken] if spoken else int(words.pop())
    day = ORDINALS[words[0]] if words[0] in ORDINALS else int(re.sub(r"\D", "", words[0]))
    return f"{years:04}-{MONTHS.index(named[:3]) + 1:02}-{day:02}"


def test_every_form_read_back_is_the_date():
    days = [date(1900, 1, 1) + timedelta(days=n) for n in range(0, 73_000, 31)]
    assert all(parse(form(day)) == day.isoformat() for day in days for form in FORMS)


def test_targets_of_dates_are_their_sources_read_back():
    assert all(parse(source) == target for split in SIZES for source, target in load_dates(split))


def test_dates_know_leap_years():
    last = {target[:4] for split in SIZES for _, target in load_dates(split) if target[5:] == "02-29"}
    assert last
    assert last <= {f"{n}" for n in range(1904, 2100, 4)}  # 2000 is one, 1900 is none


def test_weekdays_are_those_of_the_calendar():
    assert FORMS[4](date(1969, 7, 20)).startswith("Sun ")  # the landing on the Moon
    assert FORMS[3](date(2000, 2, 29)).startswith("Tuesday, ")


# -- splits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numbers", "dates"])
def test_splits_have_their_sizes_and_no_source_twice(name):
    for split, size in {"train": 20_000, "test": 500, "held_out": 500}.items():
        assert len({source for source, _ in load(split, name)}) == len(load(split, name)) == size


@pytest.mark.parametrize("name", ["numbers", "dates"])
def test_what_one_split_is_about_is_in_no_other(name):
    about = [{target for _, target in load(split, name)} for split in SIZES]
    assert sum(map(len, about)) == len(set.union(*about))


def test_train_never_shows_what_is_held_out():
    for split in ("train", "test"):
        assert not [source for source, _ in load_numbers(split) if int(source) in HELD_OUT_NUMBERS]
        assert not [target for _, target in load_dates(split) if int(target[:4]) in HELD_OUT_YEARS]
    assert all(int(source) in HELD_OUT_NUMBERS for source, _ in load_numbers("held_out"))
    assert all(int(target[:4]) in HELD_OUT_YEARS for _, target in load_dates("held_out"))


@pytest.mark.parametrize("name", ["numbers", "dates"])
def test_every_word_of_test_and_held_out_is_in_train(name):
    words = {split: set(re.findall(r"[a-z]+", repr(load(split, name)).lower())) for split in SIZES}
    assert words["test"] | words["held_out"] <= words["train"]


def test_numbers_are_of_every_length():
    lengths = [len(source) for source, _ in load_numbers("train")]
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    assert all(lengths.count(n) > 5_000 for n in (4, 5, 6))  # of the shorter ones there are no more than a thousand
    assert max(lengths[:100]) == 6  # the short ones do not come first


@pytest.mark.parametrize("split", SIZES)
def test_dates_are_of_every_form(split):
    pairs = load_dates(split)
    written = [sum(form(date.fromisoformat(target)) == source for source, target in pairs) for form in FORMS]
    assert sum(written) == len(pairs)  # each date is in one form only
    assert min(written) > 0.07 * len(pairs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("numbers", "5f8f40d61546baf0"),
        ("dates", "a51e43caed0ed3d5"),
    ],
)
def test_a_corpus_is_the_same_for_ever(name, expected):
    content = "\n".join(f"{split}\t{source}\t{target}" for split in SIZES for source, target in load(split, name))
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == expected


def test_what_is_not_there_is_refused_with_what_there_is():
    with pytest.raises(ZooError, match="corpus numbers has no split 'dev'; its splits: train, test, held_out"):
        load_numbers("dev")
    with pytest.raises(ZooError, match="no generated corpus 'time'; available: numbers, dates"):
        load("train", "time")


# -- the vocabulary ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "347281", "Grüße, 東京 🙂", "\t\n\x03"])
def test_a_text_survives_being_encoded(text):
    assert texts.decode_text(texts.encode_text(text)) == text


def test_ids_are_utf8_bytes():
    assert texts.encode_text("aé") == [97, 0xC3, 0xA9]


def test_every_corpus_fits_the_vocabulary():
    for name in ("numbers", "dates"):
        ids = {i for split in SIZES for pair in load(split, name) for text in pair for i in texts.encode_text(text)}
        assert min(ids) > texts.END
        assert max(ids) < texts.SIZE


def test_decoding_ends_at_the_end_and_leaves_out_start_and_padding():
    assert texts.decode_text([1, 97, 0, 98, 2, 99, 0]) == "ab"


def test_bytes_that_are_no_text_are_decoded_to_what_no_reference_has():
    assert texts.decode_text([97, 0xFF, 98]) == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ab\x02\x00", r"'ab\\x02\\x00' has the byte 2 at position 2, which stands for the end"),
        ("\x00", r"'\\x00' has the byte 0 at position 0, which stands for padding"),
        ("a\ud800", r"'a\\ud800' cannot be written in UTF-8: surrogates not allowed at character 1"),
    ],
)
def test_a_text_that_cannot_be_encoded_is_refused(text, said):
    with pytest.raises(ZooError, match=said):
        texts.encode_text(text)


@pytest.mark.parametrize("token", [-1, 256])
def test_an_id_outside_the_vocabulary_is_refused(token):
    with pytest.raises(ZooError, match=f"{token} is no id of the byte vocabulary; expected 0 to 255"):
        texts.decode_text([token])


# -- files of one's own --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A function that writes files into a folder of a name, and returns it."""

    def write(name: str = "mine", **files: bytes | str):
        made = tmp_path / name
        made.mkdir()
        for file, content in files.items():
            (made / file.replace("_", ".")).write_bytes(content.encode() if isinstance(content, str) else content)
        return made

    return write


PAIRS = [("one", "eins"), ("two", "zwei")]


def test_source_and_target_are_two_files(folder):
    where = folder(train_src="one\ntwo\n", train_tgt="eins\nzwei", test_src="one\n", test_tgt="eins\n")
    assert load_files("train", where) == PAIRS
    assert load_files("test", str(where)) == PAIRS[:1]


@pytest.mark.parametrize("name", ["multi30k.en-de", "multi30k-en-de", "en-de"])
def test_the_name_of_a_folder_says_which_language_is_the_source(folder, name):
    assert load_files("train", folder(name, train_en="one\ntwo\n", train_de="eins\nzwei\n")) == PAIRS


def test_a_direction_may_be_given(folder):
    where = folder(train_en="one\ntwo\n", train_de="eins\nzwei\n")
    assert load_files("train", where, "en-de") == PAIRS
    assert load_files("train", where, "de-en") == [(b, a) for a, b in PAIRS]


def test_lines_end_with_a_newline_and_nothing_else(folder):
    where = folder(train_src="\ufeffa\u2028b\r\nc\x0bd\r\n", train_tgt="1\n2\n")
    assert load_files("train", where) == [("a\u2028b", "1"), ("c\x0bd", "2")]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"mine has no train.src and train.tgt; it is empty"),
        ({"test_src": "a"}, r"mine has no train.src and train.tgt; it holds test.src"),
        (
            {"train_en": "a", "train_de": "b"},
            r"no train.src and train.tgt; it holds train.de, train.en; .* end in the direction, \.de-en or \.en-de",
        ),
        (
            {"train_src": "a\nb\n", "train_tgt": "a\n"},
            r"mine: train.src has 2 lines and train.tgt 1; expected as many, each the translation of the other's",
        ),
        ({"train_src": "", "train_tgt": "a\n"}, r"train.src is empty; expected a sentence a line"),
        ({"train_src": "a\n", "train_tgt": "\n\n"}, r"train.tgt is empty; expected a sentence a line"),
        ({"train_src": "a\n\nb\n", "train_tgt": "a\nb\nc\n"}, r"train.src:2: the line is empty; expected a sentence"),
        (
            {"train_src": "a\nb\n", "train_tgt": b"a\nb\xff\n"},
            r"train.tgt:2: no UTF-8: byte 0xff at position 1",
        ),
        (
            {"train_src": "a\nb\n", "train_tgt": "a\n\x01b\n"},
            r"train.tgt:2: the line has the byte 1 at position 0, which stands for the start",
        ),
    ],
)
def test_files_that_are_no_corpus_are_refused_with_the_reason(folder, files, said):
    with pytest.raises(ZooError, match=said):
        load_files("train", folder(**files))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ZooError, match=r"nowhere is no folder; expected one that holds train.src and train.tgt"):
        load_files("train", tmp_path / "nowhere")


def test_a_direction_that_is_none_is_refused(folder):
    with pytest.raises(ZooError, match="'english' is no direction; expected such as 'en-de'"):
        load_files("train", folder(train_src="a", train_tgt="b"), "english")


def test_languages_that_are_not_there_are_refused_with_both_that_were_looked_for(folder):
    with pytest.raises(ZooError, match=r"has no train.src and train.tgt or train.en and train.fr; it holds train.de"):
        load_files("train", folder("mine.en-fr", train_de="a"))
