"""Each wing imports from lower wings only, and no config field is dead."""

import ast
import dataclasses
import functools
import pathlib
import re
import typing

from bert_jax import config as configs

PACKAGE = pathlib.Path(__file__).parents[1] / "bert_jax"

# From the ground up; wings on one floor do not know each other. All other modules of the root are
# drivers, which may import every wing.
FLOORS = (
    ("errors", "stopping"),
    ("files",),
    ("config", "text"),
    ("data.packing", "data.corpus"),
    ("data.pretraining", "data.tasks"),
    ("distributed", "cli"),
    ("model",),
    ("objectives",),
    ("training",),
    ("checkpoints",),
    ("tasks",),
    ("runs",),
    ("planning", "inspection", "interop"),
    ("retrieval",),
)
WINGS = [wing for floor in FLOORS for wing in floor]


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Parses every module of the package, by its name inside the package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if path.name == "__init__.py" else parts)
        names[name] = ast.parse(path.read_text())
    return names


def imports(tree: ast.Module) -> set[str]:
    """Returns the dotted names of all imported modules, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(name: str) -> set[str]:
    """Returns the modules of the package that a module imports."""
    own = {each.removeprefix("bert_jax.") for each in imports(modules()[name])}
    return {each for each in own if each in modules() and modules()[each].body} - {name}


def wing_of(name: str) -> str | None:
    """Returns the wing of a module; None for a driver, which is in none."""
    return next((wing for wing in WINGS if f"{name}.".startswith(f"{wing}.")), None)


def test_wings_import_from_lower_floors_only() -> None:
    floor_of = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
    for name in modules():
        wing = wing_of(name)
        if wing is None or name.endswith("__main__"):
            continue
        for imported in imported_modules(name):
            other = wing_of(imported)
            assert other is not None, f"{name} imports {imported}, a driver"
            is_lower = floor_of[other] < floor_of[wing]
            assert other == wing or is_lower, f"{name} imports {imported} of a wing above or beside"


def test_no_wing_has_a_circle_of_imports() -> None:
    finished: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' > '.join((*way[way.index(name) :], name))}"
        if name not in finished:
            for imported in imported_modules(name):
                if wing_of(imported) == wing_of(name):
                    follow(imported, (*way, name))
            finished.add(name)

    for name in modules():
        if wing_of(name):
            follow(name, ())


def test_who_may_import_what() -> None:
    for name, tree in modules().items():
        roots = {imported.partition(".")[0] for imported in imports(tree)}
        assert not roots & {"experiments", "launch", "configs"}, name
        if (wing_of(name) or "").startswith(("data", "text")):
            assert not roots & {"jax", "flax", "optax", "orbax"}, name
        if name not in ("inspection.__main__",) and wing_of(name) not in (None, "cli"):
            assert not roots & {"absl", "ml_collections"}, f"{name} reads flags"
        assert name == "data.packing.loader" or "grain" not in roots, name


def test_folders_are_small() -> None:
    root = PACKAGE.parent
    assert len(list(PACKAGE.glob("[!_]*"))) <= 32
    for top in (PACKAGE, root / "tests", root / "benchmarks"):
        for folder in (top, *top.rglob("*/")):
            count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
            assert folder == PACKAGE or count <= 16, f"{folder} has {count} modules"


RIDDLE = re.compile(r"(What|How|Whether|Where|Who|Which|When|Why)\b")


def test_docstrings_name_the_thing() -> None:
    for top in ("bert_jax", "benchmarks", "experiments", "launch", "docs"):
        for path in (PACKAGE.parent / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node) or ""
                    assert not RIDDLE.match(text), f"{path}: {text.splitlines()[0]}"


def test_no_public_name_is_defined_twice() -> None:
    owner: dict[str, str] = {}
    for module, tree in modules().items():
        for node in tree.body:
            names = []
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                if not name.startswith("_") and name != "main":
                    other = owner.setdefault(name, module)
                    assert other == module, f"{name} is in {other} and in {module}"


def fields(config_type: type) -> set[str]:
    """Returns the names of the fields that hold values, in all groups."""
    found = set()
    for name, kind in typing.get_type_hints(config_type).items():
        kind = configs.item_type(kind) or kind
        found |= fields(kind) if dataclasses.is_dataclass(kind) else {name}
    return found


def test_every_config_field_is_read() -> None:
    read = {
        node.attr
        for name, tree in modules().items()
        if name != "config"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert fields(configs.PretrainConfig) | fields(configs.FinetuneConfig) <= read


def test_studies_do_not_know_where_they_run() -> None:
    for path in (PACKAGE.parent / "experiments").glob("*.py"):
        roots = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert "launch" not in roots, path
