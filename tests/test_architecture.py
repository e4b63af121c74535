"""Which modules may import which, and what no module may do, checked on the syntax trees."""

import ast
from pathlib import Path

import ilt

ROOT = Path(ilt.__file__).parent
TREES = {path.relative_to(ROOT.parent): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
ORDER = (
    "envs < data < models < rollout < experts < imitation < tracking < training < evaluation < studies, analysis "
    "< pipeline < api < cli"
)
"""A package may import itself and the packages listed before it."""
RANK = {package: rank for rank, packages in enumerate(ORDER.split(" < ")) for package in packages.split(", ")}
ANYWHERE = (
    "data.episodes, machine, memory, registry, rollout.sockets, rollout.workers, rules, schema, settings, "
    "tracking.checkpoints, tracking.progress, tracking.reading, tracking.run_folder, tracking.store, tracking.weights"
)
FREE = {f"ilt.{name}" for name in ANYWHERE.split(", ")}
"""Any module may import these."""
OPENS_LATE = {"ilt.data.config", "ilt.data.sources", "ilt.envs.spec", "ilt.models.config"}
"""`ilt.machine` and `ilt.settings`, which any module may import, import these to check heads and read identities."""
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def imports(tree: ast.AST) -> set[str]:
    """Return every module that a file imports; `from a import b` counts as `a` and as `a.b`."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def allowed(module: str, path: Path) -> bool:
    """Return whether the module at `path` may import `module` (or a name in it)."""
    if module.split(".")[0] == "hydra":
        return path.parent.as_posix() == "ilt/cli"
    free = any(f"{module}.".startswith(f"{each}.") for each in FREE)
    if free or not module.startswith("ilt.") or module == "ilt.__version__":
        return True
    own, package = path.with_suffix("").parts[1], module.split(".")[1]
    return package == own or RANK.get(package, len(RANK)) < RANK[own]


def test_packages_import_one_way_and_few_import_hydra() -> None:
    wrong = {
        f"{path.as_posix()}: {'.'.join(module.split('.')[:3])}"
        for path, tree in TREES.items()
        if path.with_suffix("").parts[1] in RANK
        for module in imports(tree)
        if not allowed(module, path)
    }
    assert wrong == set()


def test_the_import_order_lists_every_package() -> None:
    free = {name.split(".")[1] for name in FREE if name.count(".") == 1}
    assert {path.with_suffix("").parts[1] for path in TREES} - {"__init__", "__main__"} == set(RANK) | free


def test_modules_that_anyone_may_import_import_only_each_other() -> None:
    trees = {name: TREES[Path(*name.split(".")).with_suffix(".py")] for name in FREE}
    ours = {name: {m for m in imports(tree) if m.startswith("ilt.")} for name, tree in trees.items()}
    known = {*FREE, *OPENS_LATE}
    wrong = {f"{name}: {m}" for name, found in ours.items() for m in found if not any(m.startswith(f) for f in known)}
    assert wrong == set()


def test_loading_a_file_never_runs_code() -> None:
    for path, tree in TREES.items():
        assert not {module.split(".")[0] for module in imports(tree)} & PICKLES, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name, given = ast.unparse(call.func), {str(k.arg): ast.unparse(k.value) for k in call.keywords}
            assert given.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}"
            assert given.get("weights_only", "True") == "True", f"{path}:{call.lineno}"
            assert name != "torch.load" or "weights_only" in given, f"{path}:{call.lineno}"
            assert name not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}, f"{path}:{call.lineno}"


def test_constraints_name_no_builds_that_pypi_lacks() -> None:
    lines = (ROOT.parent / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if "+" in line.partition(";")[0] and not line.startswith("#")] == []
