"""Generator of short documents from CLDR data: places, languages, money, units, time.

All words come from the CLDR data of one language. The facts of a document are related (a country
with its languages and currencies, consecutive days, a unit with amounts), so that a masked word can
be predicted from its context.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Iterator
from typing import Any

from babel import Locale, localedata
from babel.core import get_global
from babel.dates import format_date, format_time, format_timedelta
from babel.languages import get_official_languages
from babel.lists import format_list
from babel.numbers import (
    format_currency,
    format_percent,
    get_territory_currencies,
)
from babel.units import format_unit

_FIRST_DAY = datetime.date(1960, 1, 1).toordinal()
_LAST_DAY = datetime.date(2035, 12, 31).toordinal()


def own_names(identifier: str) -> dict[str, dict[str, str]]:
    """Return the names defined by the locale, without inherited ones: kind -> {code: name}."""
    data: Any = localedata.load(identifier)
    root: Any = localedata.load("root")
    names: dict[str, dict[str, str]] = {}
    for kind in ("territories", "languages", "scripts", "currency_names"):
        inherited = root.get(kind, {})
        names[kind] = {
            code: name
            for code, name in sorted(data.get(kind, {}).items())
            # Skip names that equal their code or the root's, and CLDR's arrows for "inherited".
            if isinstance(name, str)
            and name not in (code, inherited.get(code))
            and "↑" not in name
            and len(name) > 1
        }
    return names


class DocumentGenerator:
    """Generator of distinct documents of one locale; deterministic for a CLDR release."""

    def __init__(self, identifier: str) -> None:
        self.locale = Locale.parse(identifier)
        self._random = random.Random(identifier)
        self._digits = self.locale.default_numbering_system
        names = own_names(identifier)
        self._territories = {
            code: name for code, name in names["territories"].items() if len(code) == 2
        }
        self._regions = {
            code: name for code, name in names["territories"].items() if len(code) == 3
        }
        self._languages = names["languages"]
        self._currencies = names["currency_names"]
        self._units = [
            unit
            for unit, label in sorted(self.locale.unit_display_names.items())
            if label.get("long") and self._unit(unit)
        ]
        self._speakers = _languages_by_territory()
        kinds: list[tuple[Callable[[], str], bool]] = [
            (self._country, len(self._territories) >= 20),
            (self._language, len(self._languages) >= 20 and len(self._territories) >= 20),
            (self._places, len(self._territories) + len(self._regions) >= 20),
            (self._language_list, len(self._languages) >= 20),
            (self._prices, len(self._currencies) >= 10),
            (self._measures, len(self._units) >= 10),
            (self._days, _has_month_names(self.locale)),
        ]
        self._kinds = [maker for maker, possible in kinds if possible]

    @property
    def variety(self) -> int:
        """Number of document kinds that the locale has enough data for."""
        return len(self._kinds)

    def documents(self) -> Iterator[str]:
        """Yield distinct documents of a few lines, without blank lines."""
        seen: set[str] = set()
        while len(seen) < 1_000_000:
            text = self._kinds[self._random.randrange(len(self._kinds))]()
            if len(text) > 30 and text not in seen:
                seen.add(text)
                yield text

    def _unit(self, unit: str, amount: float = 3) -> str | None:
        try:
            return format_unit(amount, unit, locale=self.locale, numbering_system=self._digits)
        except (KeyError, ValueError):
            return None

    def _list(self, items: list[str]) -> str:
        return format_list(items, locale=self.locale) if items else ""

    def _sample(self, names: dict[str, str], minimum: int, maximum: int) -> list[str]:
        count = min(len(names), self._random.randint(minimum, maximum))
        return self._random.sample(list(names.values()), count)

    def _date(self, style: str = "long") -> str:
        day = datetime.date.fromordinal(self._random.randint(_FIRST_DAY, _LAST_DAY))
        return format_date(day, style, locale=self.locale)

    def _country(self) -> str:
        code = self._random.choice(list(self._territories))
        name = self._territories[code]
        official = [
            self._languages[language]
            for language in get_official_languages(code, regional=True, de_facto=True)
            if language in self._languages
        ]
        spoken = [
            self._languages[language]
            for language in self._speakers.get(code, [])
            if language in self._languages and self._languages[language] not in official
        ]
        money = [
            self._currencies[currency]
            for currency in get_territory_currencies(code, start_date=datetime.date(1990, 1, 1))
            if currency in self._currencies
        ]
        lines = [name]
        if official:
            lines.append(f"{name}: {self._list(official)}")
        if spoken:
            self._random.shuffle(spoken)
            lines.append(f"{self._list(spoken[: self._random.randint(1, 6)])} ({name})")
        if money:
            lines.append(f"{self._list(money)} – {name}")
        percent = format_percent(
            self._random.randint(1, 100) / 100, locale=self.locale, numbering_system=self._digits
        )
        lines.append(f"{name}, {self._date()}: {percent}")
        return "\n".join(lines)

    def _language(self) -> str:
        code = self._random.choice(list(self._languages))
        name = self._languages[code]
        homes = [
            self._territories[territory]
            for territory, languages in sorted(self._speakers.items())
            if code in languages and territory in self._territories
        ]
        others = self._sample(self._languages, 2, 4)
        self._random.shuffle(homes)
        lines = [f"{name}: {self._list(homes[:8])}" if homes else name]
        lines.append(self._list([name, *others]))
        lines += [f"{name} ({home})" for home in homes[:3]]
        lines.append(f"{self._date('full')}: {name}")
        return "\n".join(lines)

    def _places(self) -> str:
        places = {**self._territories, **self._regions}
        lines = [self._list(self._sample(places, 3, 7)) for _ in range(self._random.randint(2, 5))]
        return ".\n".join(lines) + "."

    def _language_list(self) -> str:
        lines = [
            self._list(self._sample(self._languages, 3, 7))
            for _ in range(self._random.randint(2, 4))
        ]
        return ".\n".join(lines) + "."

    def _prices(self) -> str:
        lines = []
        for _ in range(self._random.randint(3, 6)):
            code = self._random.choice(list(self._currencies))
            amount = self._random.randint(1, 10_000_000) / self._random.choice((1, 100))
            price = format_currency(amount, code, locale=self.locale, numbering_system=self._digits)
            lines.append(f"{self._currencies[code]}: {price}")
        return "\n".join(lines)

    def _measures(self) -> str:
        lines = []
        for unit in self._random.sample(self._units, min(len(self._units), 3)):
            amounts: list[float] = [self._random.randint(1, 12), self._random.randint(13, 5_000)]
            if self._random.random() < 0.5:
                amounts.append(self._random.randint(1, 999) / 10)
            measures = [text for text in (self._unit(unit, amount) for amount in amounts) if text]
            label = self.locale.unit_display_names[unit]["long"]
            lines.append(f"{label}: {self._list(measures)}")
        return "\n".join(lines)

    def _days(self) -> str:
        first = self._random.randint(_FIRST_DAY, _LAST_DAY)
        step = self._random.choice((1, 1, 1, 7))
        lines = [
            format_date(
                datetime.date.fromordinal(first + number * step), "full", locale=self.locale
            )
            for number in range(self._random.randint(3, 7))
        ]
        hour = datetime.time(self._random.randrange(24), self._random.randrange(0, 60, 5))
        lines.append(format_time(hour, "short", locale=self.locale))
        ago = datetime.timedelta(days=self._random.choice((-1, 1)) * self._random.randint(1, 700))
        lines.append(format_timedelta(ago, add_direction=True, locale=self.locale))
        return "\n".join(lines)


def _has_month_names(locale: Locale) -> bool:
    """Return whether the locale has month names (the root of CLDR has M01, M02, …)."""
    return not locale.months["format"]["wide"][1].startswith("M0")


def _languages_by_territory() -> dict[str, list[str]]:
    """Return territory -> language codes, from the population data of CLDR."""
    table = get_global("territory_languages")
    return {
        territory: sorted(code.split("_")[0] for code in languages)
        for territory, languages in table.items()
    }
