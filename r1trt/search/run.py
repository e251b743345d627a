"""A search from an export to a directory with the plan, its figures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from r1trt.arch import architecture
from r1trt.artifacts.disk import replace_file, sha256_of_file
from r1trt.artifacts.manifest import json_text
from r1trt.calibrate.calibrate import CalibrationConfig
from r1trt.errors import ConfigError
from r1trt.estimate.gpus import Device
from r1trt.evaluate.checkpoint import module_from_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.packages import require_packages
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import save_plan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore
from r1trt.search.candidates import candidate_plans, groups_of_candidates
from r1trt.search.chain import ModelChain
from r1trt.search.config import SearchConfig
from r1trt.search.damage import Damages, measured_damages
from r1trt.search.damage_cache import DamageCache
from r1trt.search.fisher import CheapScores, cheap_scores
from r1trt.search.measure import Measurement
from r1trt.search.optimize import Solution, front, greedy_within, least_cost, random_within, solution_of
from r1trt.search.page import page_of_result
from r1trt.search.result import Point, SearchResult
from r1trt.search.search import Found, best_under_budget, keeps, run_solution
from r1trt.search.space import SearchSpace
from r1trt.search.texts import Texts, texts_of_search
from r1trt.search.times import CostModel, device_for_arch

PLAN_FILE, RESULT_FILE, PAGE_FILE = "plan.yaml", "search.json", "report.html"


def search_precision(config: SearchConfig, progress: Progress = ignore) -> tuple[SearchResult, Path]:
    """Search a plan, and write it with its figures.

    Returns:
        What was found, and the directory that holds it.

    Raises:
        R1TrtError: The model, a text or the budget cannot be used.
    """
    scoring = {"torch": "torch"} if config.scores else {}
    require_packages("A search", {"scipy": "cpu", "matplotlib": "torch", **scoring})
    device = device_for_arch(config.arch, config.device)
    export = load_export(config.model)
    texts = texts_of_search(config, export)
    chain = ModelChain(export.model, export.weight_base, config.threads)
    exact = plan_from_rules(export.model, config.arch, "fp32", backend="tensorrt-rtx")
    space = measured_space(config, export, chain, exact, texts, device, progress)
    curve = front(space.options)
    measurement = Measurement(chain, exact, texts.search, "search", progress)
    found, runs = _found(config, space, measurement, curve)
    final = Measurement(chain, exact, texts.final, "held-out", progress)
    chosen = replace(found.point, name="searched", final=final.measure(found.plan, "the best plan"))
    points = [
        replace(point, final=final.measure(space.plan(solution), point.name))
        for point, solution in _compared(space, found, export, config)
    ]
    result = SearchResult(
        plan=_held_to(found.plan, chosen),
        chosen=chosen,
        points=(*points, *(run.point for run in runs)),
        front=tuple(space.point(f"front {at + 1}", item) for at, item in enumerate(curve)),
        groups={group.name: group.layers for group in space.groups},
        damages=space.damages,
        costs=space.all_costs(),
        scores=_scores(export, space, texts, progress) if config.scores else None,
        goal=config.goal,
        facts={
            **_facts(config, export, texts, device.title, space.damages, chosen),
            "least_cost": least_cost(space.options, found.solution.damage),
        },
    )
    return result, write_result(result, config.output or config.model / f"{config.arch}-searched")


def _held_to(plan: PrecisionPlan, chosen: Point) -> PrecisionPlan:
    """The plan with the thresholds that its own figures give, a half above what was measured."""
    final = chosen.final
    assert final is not None, "it was measured"
    limits = replace(
        plan.thresholds,
        kl_max=max(1.5 * final.kl.high, 1e-3),
        perplexity_increase_max=max(1.5 * final.perplexity_increase.high, 0.01),
    )
    return replace(plan, thresholds=limits, calibration={**plan.calibration, "weight_scaling": "by layer"})


def measured_space(
    config: SearchConfig,
    export: ExportedModel,
    chain: ModelChain,
    exact: PrecisionPlan,
    texts: Texts,
    device: Device,
    progress: Progress,
) -> SearchSpace:
    """What is chosen from, every choice measured, here or by a search before. Raises R1TrtError."""
    calibration = CalibrationConfig(
        tokenizer=export.artifact.path, text=config.calibration, weights=export.weight_marks()
    )
    plans = candidate_plans(export, config.arch, calibration, progress)
    groups = groups_of_candidates(export.model, plans)
    cache = DamageCache(groups, texts.screen, _model_marks(export))
    damages = cache.read()
    for group, kind, damage in measured_damages(chain, exact, groups, texts.screen, damages, progress):
        cache.add(group, kind, damage)
        damages.setdefault(group, {})[kind] = damage
    widest, *_, narrowest = plans.values()
    base = replace(narrowest, layers=widest.layers)
    costs = CostModel(export.model, base, config.minimize, device, config.workload)
    return SearchSpace(base=base, groups=groups, damages=damages, costs=costs)


def _model_marks(export: ExportedModel) -> list[str]:
    """What tells this graph and this checkpoint's contents from others, without reading the weights."""
    return [sha256_of_file(export.artifact.graph), *export.weight_marks()]


def _scores(export: ExportedModel, space: SearchSpace, texts: Texts, progress: Progress) -> CheapScores:
    module = module_from_checkpoint(export.weight_base, config=export.config, capacity=None)
    return cheap_scores(module, space.groups, texts.screen, space.damages, progress=progress)


def _found(
    config: SearchConfig,
    space: SearchSpace,
    measurement: Measurement,
    curve: Sequence[Solution],
) -> tuple[Found, list[Found]]:
    if config.from_front is None:
        assert config.budget is not None, "a search has one of both"
        return best_under_budget(space, measurement, config.budget)
    if not 1 <= config.from_front <= len(curve):
        raise ConfigError(
            "The front has no such point.", found=config.from_front, expected=f"1 to {len(curve)}"
        )
    solution = curve[config.from_front - 1]
    return run_solution(space, measurement, solution, f"front {config.from_front}"), []


def _compared(
    space: SearchSpace, found: Found, export: ExportedModel, config: SearchConfig
) -> list[tuple[Point, Solution]]:
    """All wide, the rules' plan, all narrow; and what simpler searches find for the same sum of damages."""
    options, budget = space.options, found.solution.damage
    narrow = space.base.precision
    rules = space.of_plan(plan_from_rules(export.model, config.arch, narrow))
    solutions = {
        f"all {space.groups[0].choices[0].kind.upper()}": solution_of(options, [0] * len(options)),
        **({} if rules is None else {"rules": rules}),
        f"all {narrow.upper()}": space.all_of(narrow),
        "greedy, same damage": greedy_within(options, budget),
        "random, same damage": random_within(options, budget),
    }
    return [(space.point(name, solution), solution) for name, solution in solutions.items()]


def _facts(
    config: SearchConfig,
    export: ExportedModel,
    texts: Texts,
    device: str,
    damages: Damages,
    chosen: Point,
) -> dict[str, str | int | float | None]:
    assert chosen.final is not None, "it was measured"
    budget = config.budget
    return {
        "model": export.artifact.manifest.model_name,
        "arch": config.arch,
        "builder": architecture(config.arch).backend,
        "minimize": config.minimize,
        "device": device,
        "batch": config.workload.batch,
        "prompt_tokens": config.workload.prompt_tokens,
        "new_tokens": config.workload.new_tokens,
        "screen_tokens": sum(map(len, texts.screen)),
        "search_tokens": sum(len(window.input_ids) for window in texts.search),
        "final_tokens": sum(len(window.input_ids) for window in texts.final),
        "calibration": "package" if config.calibration is None else config.calibration.name,
        "keeps_heldout": None if budget is None else keeps(chosen.final, budget),
        "heldout": "package" if config.heldout is None else config.heldout.name,
        "choices": sum(map(len, damages.values())),
    }


def write_result(result: SearchResult, directory: Path) -> Path:
    """Write plan, figures and page; the plan comes last, so that it never lacks them."""
    figures, page = json_text(result.to_json()), page_of_result(result)
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / RESULT_FILE, figures)
    replace_file(directory / PAGE_FILE, page)
    save_plan(result.plan, directory / PLAN_FILE)
    return directory
