"""Numbers, ordinals and years in English words, in British usage: an "and" before the last two digits."""

from __future__ import annotations

from zoo import ZooError

LARGEST = 999_999
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
IRREGULAR = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}


def cardinal(n: int) -> str:
    """Return a whole number up to 999,999 in words: 10,110 is "ten thousand one hundred and ten"."""
    if not 0 <= n <= LARGEST:
        raise ZooError(f"{n} is not written in words here; expected 0 to {LARGEST}")
    thousands, rest = divmod(n, 1000)
    if not thousands:
        return below_thousand(rest)
    words = f"{below_thousand(thousands)} thousand"
    if not rest:
        return words
    return f"{words} and {below_hundred(rest)}" if rest < 100 else f"{words} {below_thousand(rest)}"


def below_thousand(n: int) -> str:
    """Return 0 to 999 in words."""
    hundreds, rest = divmod(n, 100)
    if not hundreds:
        return below_hundred(rest)
    words = f"{ONES[hundreds]} hundred"
    return f"{words} and {below_hundred(rest)}" if rest else words


def below_hundred(n: int) -> str:
    """Return 0 to 99 in words, with a hyphen where there are two."""
    if n < len(ONES):
        return ONES[n]
    tens, ones = divmod(n, 10)
    return f"{TENS[tens]}-{ONES[ones]}" if ones else TENS[tens]


def ordinal(n: int) -> str:
    """Return the place of a number below a hundred: 22 is "twenty-second"."""
    before, hyphen, last = below_hundred(n).rpartition("-")
    return f"{before}{hyphen}{IRREGULAR.get(last, f'{last}th')}"


def year(n: int) -> str:
    """Return a year from 1100 to 2099 as it is said: "nineteen oh five", "two thousand and five", "twenty fourteen"."""
    century, rest = divmod(n, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(n)
    return f"{ONES[century] if century < 20 else 'twenty'} " + (
        "hundred" if not rest else f"oh {ONES[rest]}" if rest < 10 else below_hundred(rest)
    )
