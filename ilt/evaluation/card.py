"""The card of a run, in Markdown: what it is, how good, on which seeds, and what it was not tested on."""

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ilt.evaluation.statistics import mean_interval_of_runs
from ilt.evaluation.tables import is_scored, markdown_table, result_table, short
from ilt.schema import leaves
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.records import setting
from ilt.tracking.run_folder import RESULTS, read_config, read_results
from ilt.tracking.store import Artifact


def card_of(run: Path, identity: Mapping[str, Any], demos: Artifact) -> str:
    """Return the card of a finished run.

    Args:
        run: its folder.
        identity: everything that determines the training, as `ilt.settings.training_config` returns it.
        demos: its demonstrations.
    """
    results, config = read_results(run), read_config(run)
    others = _other_seeds(run, results, config)
    sections = {
        "Results": _results(results, others),
        "Data": _data(results, config, demos),
        "Choices": _choices(identity),
        "Not tested": "\n".join(f"- {line}" for line in _not_tested(results, config, others)) + "\n",
        "Made": _made(results),
    }
    body = "\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# {run.name}\n\n{_summary(results, identity)}\n\n{body}"


def _summary(results: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    imitation, model = results["imitation"], identity["model"]["component"]
    teacher, seen = results["expert"] or results["demonstrations"], results["context_length"]
    return (
        f"A student of `{teacher}` in `{results['env']}`, trained by `{imitation['name']}` on "
        f"{imitation['expert_labels']:,} labels with training seed {results['seed']}: a model `{model}` with "
        f"{results['n_parameters']:,} parameters, which sees {seen} step{'s' if seen > 1 else ''}."
    )


def _results(results: Mapping[str, Any], others: Mapping[int, float]) -> str:
    lines = [markdown_table(*result_table(results))]
    if not is_scored(results):
        return lines[0] + "\nNothing was scored, since there is no environment.\n"
    seeds, reported = results["seeds"], results["reported_checkpoint"]
    lines.append(
        f"The results are those of the weights `{reported}`, in {results['n_episodes']:,} episodes of the block "
        f"`{seeds['block']}`. Intervals are over episodes: another training seed would give another student.\n"
    )
    if (difference := results["difference_to_expert"]) is not None:
        low, high = difference["interval"]
        lines.append(
            f"Difference from the expert in the same episodes: {difference['mean']:.1f}, "
            f"95 % interval {low:.1f} … {high:.1f}.\n"
        )
    if said := _past_actions(results.get("copycat", {})):  # older runs lack it
        lines.append(said)
    if others:
        means = {results["seed"]: float(results["return_mean"]), **others}
        low, high = mean_interval_of_runs(np.array([*means.values()]))
        each = ", ".join(f"{mean:.1f} (seed {seed})" for seed, mean in sorted(means.items()))
        lines.append(
            f"Training seeds of this config so far: {each}. Their mean is {np.mean([*means.values()]):.1f}, 95 % "
            f"interval {low:.1f} … {high:.1f}.\n"
        )
    return "\n".join(lines)


def _past_actions(copycat: Mapping[str, Any]) -> str:
    """Return a sentence about how much the student relies on past actions; see `ilt.evaluation.copycat`."""
    parts = [
        f"the {who}'s action changes by {value:.3f}"
        for who, value in copycat.get("change", {}).items()
        if value is not None
    ]
    words = {
        "error_at_changes": "where the expert's action changes, the student's error is {:.3f}",
        "moved_by_swap": "with other past actions, the student's action would change by {:.3f}",
    }
    parts += [said.format(copycat[key]) for key, said in words.items() if key in copycat]
    if not parts:
        return ""
    units = "0 or 1 for a discrete action, mean absolute differences on the scale [-1, 1] for a continuous one"
    return f"Past actions, means over steps ({units}): {'; '.join(parts)}.\n"


def _other_seeds(run: Path, results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[int, float]:
    """Return the mean returns of finished runs beside this one that differ only in their training seed, by seed."""
    stem, found, _ = run.name.rpartition(f"-s{results['seed']}-")
    others = {}
    for path in sorted(run.parent.glob(f"{glob.escape(stem)}-s*/{RESULTS}")) if found and is_scored(results) else ():
        try:
            other = read_results(path.parent)
            if path.parent != run and setting(read_config(path.parent)) == setting(config):
                others[int(other["seed"])] = float(other["return_mean"])
        except (UnreadableFileError, KeyError, TypeError, ValueError):  # another run's folder may be damaged
            continue
    return others


def _data(results: Mapping[str, Any], config: Mapping[str, Any], demos: Artifact) -> str:
    """Return a table of the blocks of seeds and what each was used for."""
    first, *rounds = results["imitation"]["by_round"]
    trained = f"training: {first['expert_labels']:,} labels from demonstrations, mean return {first['return_mean']:.1f}"
    if rounds:
        trained += f"; {sum(each['expert_labels'] for each in rounds):,} from {len(rounds)} rounds"
    held_out = "validation loss"
    if (kept := demos.metrics["validation"].get("kept")) is not None:  # older data sets do not say
        held_out += f": {kept:,} demonstrations"
    uses = {"demonstrations": trained, "validation": held_out}
    if is_scored(results):
        chosen = ", choice of `best`" if "best" in results["checkpoints"] else ""
        n_episodes = config["callbacks"]["rollout"]["n_episodes"]
        uses["selection"] = f"learning curve{chosen}: {n_episodes:,} episodes, the same each time"
        uses["test"] = f"results: {results['n_episodes']:,} episodes"
    # recordings bring their own seeds, or none
    ours = [*uses] if "blocks" in demos.manifest["config"] else ["selection", "test"]
    blocks = config["env"]["seed_blocks"]
    rows = [[b, f"{blocks[b][0]:,} and above" if b in ours else "–", use] for b, use in uses.items()]
    return markdown_table(["block", "seeds", "used for"], rows)


def _choices(identity: Mapping[str, Any]) -> str:
    """Return a table of the options that were chosen, and of the keys that differ from an option's own defaults."""
    parts = {key: value for key, value in identity.items() if key not in ("kind", "version", "seed", "seed_blocks")}
    rows = [
        [key.removesuffix(".component"), short(value)]
        for key, value in leaves(parts)
        if not key.endswith(".version") and value not in ({}, None)
    ]
    return markdown_table(["key", "value"], rows)


def _not_tested(results: Mapping[str, Any], config: Mapping[str, Any], others: Mapping[int, float]) -> Iterator[str]:
    if not is_scored(results):
        yield "Acting: `ilt evaluate run=… env=NAME` scores the student in an environment."
        return
    if not others:
        yield "Other training seeds: the same command with `-m seed=1,2,3` trains them."
    env, evaluation = config["env"], config["evaluation"]
    wrapped = f" with {', '.join(env['wrappers'])}" if env.get("wrappers") else ""
    yield f"Anything but `{env['id']}`{wrapped} as configured: other physics, noise on observations or actions, delays."
    yield "Sampled actions." if evaluation["deterministic"] else "Most likely actions; the student samples."
    yield f"Other lengths of context than {results['context_length']} while acting."
    yield (
        "Fresh seeds: every run is scored in the same test episodes, so to choose a run by its results here makes them "
        f"optimistic. `ilt evaluate seeds=test:{results['n_episodes']}:1000` takes others."
    )


def _made(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    seconds, resumed = results["seconds"]["total"], ", resumed" if results["resumed"] else ""
    precision = f"Trained in {known}. " if (known := results.get("precision")) else ""  # older runs lack it
    return (
        f"At commit {results['git_commit'] or 'unknown'}, {results['made_at']}, in {seconds:.0f} s without "
        f"figures{resumed}. {precision}{results['machine']}, Python {results['python']}, {versions}.\n"
    )
