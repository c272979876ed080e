"""The recipes that come with the package, by name: `demo`, `wikiann`, `paper/wikiann`.

These are the files of `examples/recipes`. A wheel holds them as package data.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent / "shipped"  # in a wheel
_CHECKOUT = Path(__file__).parents[2] / "examples" / "recipes"


def recipe_folder() -> Path:
    """The folder that holds the recipes."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def shipped_recipe(name: str) -> Path | None:
    """The file of a recipe that comes with the package.

    Args:
        name: The name of a recipe, or a path.

    Returns:
        The file; `None` if no recipe has the name, or a file of the user has it.
    """
    if Path(name).is_file():  # a folder of that name hides no recipe
        return None
    return recipe_folder() / f"{name}.yaml" if name in recipe_names() else None


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package, sorted."""
    folder = recipe_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def listing() -> str:
    """One line per recipe: its name and the first sentence of the comment that it begins with."""
    lines = []
    for name in recipe_names():
        comment = []
        for line in (recipe_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#") or not line.strip("# "):
                break
            comment.append(line.strip("# "))
        summary = " ".join(comment).split(". ")[0].rstrip(".:")
        lines.append(f"{name:<22} {summary}")
    return "\n".join(lines)
