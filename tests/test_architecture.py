"""Which module may import which, and what no module does: read from the syntax trees."""

import ast
from pathlib import Path

import ilt

ROOT = Path(ilt.__file__).parent
TREES = {path.relative_to(ROOT.parent): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = ["envs", "experts", "demos", "models", "rollouts", "learning", "analysis"]  # each may import those before it
FREE = {
    "ilt.workers",
    "ilt.store",
    "ilt.weights",
    "ilt.progress",
    "ilt.config",
    "ilt.demos.episodes",
}  # imported by anyone
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def imports(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in a file, `from a import b` as a and as a.b."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def allowed(module: str, own: str) -> bool:
    """Whether a module of package `own` may import `module` (or a name in it)."""
    if module.split(".")[0] == "hydra":
        return False
    if not module.startswith("ilt.") or any(module == free or module.startswith(f"{free}.") for free in FREE):
        return True
    package = module.split(".")[1]
    return package in PACKAGES and PACKAGES.index(package) <= PACKAGES.index(own)


def test_packages_import_one_way_and_neither_hydra_nor_an_entry_point() -> None:
    wrong = {
        f"{path}: {module}"
        for path, tree in TREES.items()
        if len(path.parts) > 2
        for module in imports(tree)
        if not allowed(module, path.parts[1])
    }
    assert wrong == set()


def test_every_package_is_in_the_order() -> None:
    assert {path.parts[1] for path in TREES if len(path.parts) > 2} == set(PACKAGES)


def test_what_anyone_may_import_imports_nothing_else_of_ours() -> None:
    trees = {name: TREES[Path(*name.split(".")).with_suffix(".py")] for name in FREE}
    ours = {name: {m for m in imports(tree) if m.startswith("ilt.")} for name, tree in trees.items()}
    wrong = {f"{name}: {m}" for name, found in ours.items() for m in found if not any(m.startswith(f) for f in FREE)}
    assert wrong == set()


def test_nothing_that_is_loaded_can_run_code() -> None:
    for path, tree in TREES.items():
        assert not {module.split(".")[0] for module in imports(tree)} & PICKLES, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name, given = ast.unparse(call.func), {str(k.arg): ast.unparse(k.value) for k in call.keywords}
            assert given.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}"
            assert given.get("weights_only", "True") == "True", f"{path}:{call.lineno}"
            assert name != "torch.load" or "weights_only" in given, f"{path}:{call.lineno}"
            assert name not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}, f"{path}:{call.lineno}"
