"""The table of a decay: extremes by change, means per masked token, one column per model."""

import io

from rich.console import Console

from mmbert.decay.comparison import DecayComparison, LanguageLosses
from mmbert.decay.comparison_table import render


def comparison(new: int, roles: tuple[str, ...] = ("start", "result")) -> DecayComparison:
    """Return losses of `new` new languages, of which number n falls by n/100, and two old ones."""

    def row(name: str, source: str, fall: float, masked: int) -> LanguageLosses:
        losses = {role: 5.0 - fall * number for number, role in enumerate(roles)}
        return LanguageLosses.model_validate(
            {
                "language": name, "source": source, "masked_tokens": masked,
                "trained_tokens": 1000, "losses": losses,
            }
        )  # fmt: skip

    rows = [row(f"n{number:02}_Latn", "new", number / 100, 10) for number in range(new)]
    rows += [row("eng_Latn", "old", 0.4, 30), row("deu_Latn", "old", -0.4, 10)]
    return DecayComparison(
        models=dict.fromkeys(roles, "path"),
        before="onto" if "onto" in roles else "start",
        merge="none",
        mask_ratio=0.15,
        context=512,
        tokens=123_456,
        languages=rows,
    )


def printed(found: DecayComparison, *, all_languages: bool = False) -> list[str]:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(found, all_languages=all_languages))
    return console.export_text().splitlines()


def cells(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_extremes_are_shown_unless_all_are_wanted() -> None:
    shown = printed(comparison(40))
    languages = [line.split()[1] for line in shown if line.startswith("│ n")]
    falling = [f"n{number:02}_Latn" for number in (39, 38, 37, 36, 35, 34)]
    assert languages == [*falling, *(f"n{number:02}_Latn" for number in (5, 4, 3, 2, 1, 0))]
    assert any("… 28 more: --all, or decay.tsv" in line for line in shown)
    every = printed(comparison(40), all_languages=True)
    assert sum(line.startswith("│ n") for line in every) == 40


def test_means_are_per_masked_token() -> None:
    shown = printed(comparison(3))
    assert cells(shown, "n02_Latn")[1:] == ["1,000", "10", "5.000", "4.980", "-0.020"]
    assert cells(shown, "all new (3)")[1:] == ["3,000", "30", "5.000", "4.990", "-0.010"]
    # 30 tokens that fall by 0.4 and 10 that rise by it
    assert cells(shown, "all old (2)")[1:] == ["2,000", "40", "5.000", "4.800", "-0.200"]


def test_the_change_is_from_the_model_that_the_result_replaces() -> None:
    shown = printed(comparison(1, ("start", "onto", "trained", "result")))
    heading = next(line for line in shown if "language" in line)
    columns = [cell.strip() for cell in heading.strip("┃").split("┃")]
    assert columns[3:] == ["state", "before", "trained", "after", "change"]
    assert cells(shown, "eng_Latn")[3:] == ["5.000", "4.600", "4.200", "3.800", "-0.800"]
