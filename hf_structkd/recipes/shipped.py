"""The recipes that come with the package, by name: `demo`, `wikiann`, `paper/wikiann`.

They are the files of `examples/recipes`, which a wheel holds as package data.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent / "shipped"  # in a wheel
_CHECKOUT = Path(__file__).parents[2] / "examples" / "recipes"


def folder() -> Path:
    """Where the recipes lie."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def shipped_recipe(name: str) -> Path | None:
    """The file of a recipe that comes with the package; `None` if there is none, or a file has the name."""
    if Path(name).exists():
        return None
    file = folder() / f"{name}.yaml"
    return file if name in names() else None


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(file.relative_to(folder()).with_suffix("").as_posix() for file in folder().rglob("*.yaml"))


def listing() -> str:
    """The recipes, a line each: the name, and the first sentence of its comment."""
    lines = []
    for name in names():
        comment = []
        for line in (folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#") or not line.strip("# "):
                break
            comment.append(line.strip("# "))
        first = " ".join(comment).split(". ")[0].rstrip(".:")
        lines.append(f"{name:<22} {first}")
    return "\n".join(lines)
