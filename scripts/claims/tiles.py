"""Tile utilization of a trained mixture's routed batches: useful rows over the rows of the tiles computed.

A tile is so many rows that are multiplied with one expert's weights. In order of arrival a tile of rows is
computed once for every expert that occurs in it. Sorted by expert, tiles are those of the kernels' own
scheduler, which runs here. The article groups tokens by similarity first: k-means of the router's inputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from claims.moe_schedule import Schedule, schedule, scheduler
from claims.row import REPOSITORY, Options, Row, figure_of, save_figure
from claims.runs import Run
from r1trt.config import MoeConfig
from r1trt.model import R1AsaForCausalLM, load_checkpoint
from r1trt.model.moe import Router

NAME = "tiles"
OBJECTS = REPOSITORY / "build" / "objects"  # as the tests', which compile the same sources
CLAIMED = (0.62, 0.89)
ORDERS = {
    "arrival": "order of arrival",
    "grouped": "tokens grouped, unsorted inside",
    "grouped then sorted": "tokens grouped, sorted by expert inside",
    "sequences then sorted": "sequences grouped, sorted by expert inside",
    "sorted": "sorted by expert (the kernels)",
}


@dataclass(frozen=True, kw_only=True)
class TilesConfig:
    """What is scheduled.

    Attributes:
        tokens: Of a batch.
        rule: Key of RULES.
        checkpoint: The trained model, in the repository.
        text: What it reads, in the repository.
        window: Tokens of a sequence.
        groups: Of similar tokens, or of similar sequences.
        tile_rows: Of tiles.
    """

    tokens: int
    rule: str
    checkpoint: str = "tests/data/r1_asa_bytes"
    text: str = "r1trt/data/heldout.txt"
    window: int = 128
    groups: int = 8
    tile_rows: tuple[int, ...] = (16, 64, 128)


RULES: Mapping[str, Mapping[str, Any]] = {
    "adaptive": {},
    "top 2": {"adaptive_threshold": 1.0},
    "top 2 of 2 groups of 4": {
        "adaptive_threshold": 1.0,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "noaux_tc",
    },
}
"""What changes of the router as trained; the last is two-stage routing as the kernels have it."""
BATCHES: Mapping[str, tuple[int, ...]] = {
    "adaptive": (128, 512, 2048, 8192),
    "top 2": (512, 2048),
    "top 2 of 2 groups of 4": (512, 2048),
}


def measure(options: Options) -> dict[str, Any]:
    """Schedules every batch under every rule."""
    asked = {"adaptive": (128,)} if options.reduced else BATCHES
    rows: list[dict[str, Any]] = []
    for rule, batches in asked.items():
        for tokens in batches:
            config = TilesConfig(tokens=tokens, rule=rule)
            variant = f"{rule.replace(' ', '-')}-{tokens}"
            run = Run(row=NAME, variant=variant, config=asdict(config))
            record = options.store.record(run, partial(utilization, config))
            if record is not None:
                rows.append({"rule": rule, "tokens": tokens, **record["result"]})
    return {"config": asdict(TilesConfig(tokens=0, rule="")), "claimed": CLAIMED, "rows": rows}


def utilization(config: TilesConfig) -> dict[str, Any]:
    """Useful and computed rows of all layers, by order and tile."""
    library = scheduler(OBJECTS)
    useful, differing = 0, 0
    computed = {order: dict.fromkeys(map(str, config.tile_rows), 0) for order in ORDERS}
    for router, x_TD in router_inputs(config):
        layer = _Layer(library, config, router, x_TD)
        useful += layer.rows
        differing += layer.differing
        for order, by_tile in computed.items():
            for tile_rows in config.tile_rows:
                by_tile[str(tile_rows)] += layer.computed(order, tile_rows)
    shares = {
        order: {tile: useful / rows for tile, rows in by_tile.items()} for order, by_tile in computed.items()
    }
    return {"useful_rows": useful, "tokens_routed_otherwise": differing, "utilization": shares}


def router_inputs(config: TilesConfig) -> Iterator[tuple[Router, Tensor]]:
    """Every layer's router, and the tokens of a batch as it gets them, in BF16."""
    module = load_checkpoint(REPOSITORY / config.checkpoint, torch.float32)
    text = (REPOSITORY / config.text).read_bytes()[: config.tokens]
    found = _inputs(module, torch.tensor(list(text)).view(-1, config.window))
    changes = RULES[config.rule]
    for router, x_TD in found:
        router.config = replace(router.config, **changes)
        yield router, x_TD.bfloat16().float()


@torch.no_grad()
def _inputs(module: R1AsaForCausalLM, ids_BS: Tensor) -> list[tuple[Router, Tensor]]:
    found: list[tuple[Router, Tensor]] = []

    def keep(router: Router, args: tuple[Tensor], output: object) -> None:
        found.append((router, args[0]))

    routers = [part for part in module.modules() if isinstance(part, Router)]
    hooks = [router.register_forward_hook(keep) for router in routers]
    module(ids_BS)
    for hook in hooks:
        hook.remove()
    return found


class _Layer:
    """One layer's tokens, routed once by the kernels, and laid out in every order.

    Args:
        library: The scheduler.
        config: What is scheduled.
        router: The layer's.
        x_TD: Its tokens.

    Attributes:
        rows: Pairs of a token and an expert.
        differing: Tokens that the reference routes otherwise than the kernels.
    """

    def __init__(self, library: ctypes.CDLL, config: TilesConfig, router: Router, x_TD: Tensor) -> None:
        self._library, self._x_TD = library, x_TD
        self._moe: MoeConfig = router.config
        self._weight_ED = router.weight.detach()
        whole = self._schedule(x_TD, config.tile_rows[0])
        self._experts_TK, self.rows = whole.expert_TK, whole.rows
        with torch.no_grad():
            routing = router(x_TD)
        expected = torch.where(routing.kept_TK, routing.experts_TK, -1).numpy()
        self.differing = int((expected != self._experts_TK).any(-1).sum())
        sequences = x_TD.view(-1, config.window, x_TD.shape[-1]).mean(1)
        self._group_T = _similar(x_TD, config.groups)
        self._sequence_group_T = np.repeat(_similar(sequences, config.groups), config.window)

    def computed(self, order: str, tile_rows: int) -> int:
        """Rows of the tiles that are computed."""
        if order == "arrival":
            return _unsorted(self._experts_TK, tile_rows)
        if order == "grouped":
            return _unsorted(self._experts_TK[np.argsort(self._group_T, kind="stable")], tile_rows)
        if order == "sorted":
            return self._schedule(self._x_TD, tile_rows).tiles * tile_rows
        group_T = self._group_T if order == "grouped then sorted" else self._sequence_group_T
        own = [self._x_TD[torch.from_numpy(group_T == group)] for group in np.unique(group_T)]
        return sum(self._schedule(x_TD, tile_rows).tiles for x_TD in own) * tile_rows

    def _schedule(self, x_TD: Tensor, tile_rows: int) -> Schedule:
        return schedule(self._library, self._moe, self._weight_ED, x_TD, tile_rows)


def _similar(x_TD: Tensor, groups: int) -> np.ndarray:
    """Which group each vector is in, by k-means of directions."""
    directions = torch.nn.functional.normalize(x_TD, dim=-1).double().numpy()
    if len(directions) <= groups:
        return np.arange(len(directions))
    labels: np.ndarray = kmeans2(directions, groups, minit="++", rng=np.random.default_rng(0))[1]
    return labels


def _unsorted(experts_TK: np.ndarray, tile_rows: int) -> int:
    """Rows computed where tiles are cut from rows as they stand: a tile once for every expert in it."""
    pairs = experts_TK[experts_TK >= 0]
    tiles = [pairs[start : start + tile_rows] for start in range(0, len(pairs), tile_rows)]
    return sum(len(np.unique(tile)) for tile in tiles) * tile_rows


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    config, (before, after) = document["config"], document["claimed"]
    tiles = config["tile_rows"]
    lines = [
        f"Useful rows over computed rows, all layers of `{config['checkpoint']}` (8 experts) on "
        f"`{config['text']}` in sequences of {config['window']}; the article: {before:.0%} to {after:.0%}.",
        f"Groups: {config['groups']} of similar tokens (or sequences), by k-means of the routers' inputs. "
        "Where rows are sorted, tiles are those of the kernels' scheduler, run on the CPU.",
        "",
        f"| routing | tokens | order | {' | '.join(f'tiles of {tile}' for tile in tiles)} |",
        f"|---|---:|---|{'---:|' * len(tiles)}",
    ]
    for row in document["rows"]:
        for order, title in ORDERS.items():
            shares = row["utilization"][order]
            cells = " | ".join(f"{shares[str(tile)]:.1%}" for tile in tiles)
            lines.append(f"| {row['rule']} | {row['tokens']} | {title} | {cells} |")
    differing = sum(row["tokens_routed_otherwise"] for row in document["rows"])
    return "\n".join(
        [*lines, "", f"Tokens that the reference routes otherwise than the kernels: {differing}."]
    )


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Utilization over the tokens of a batch, a panel a tile, with adaptive k as trained."""
    tiles = document["config"]["tile_rows"]
    figure, axes = figure_of(len(tiles))
    rows = [row for row in document["rows"] if row["rule"] == "adaptive"]
    for axis, tile in zip(axes, tiles, strict=True):
        for order, title in ORDERS.items():
            shares = [row["utilization"][order][str(tile)] for row in rows]
            axis.plot([row["tokens"] for row in rows], shares, "o-", label=title)
        for claimed in document["claimed"]:
            axis.axhline(claimed, color="black", linestyle="--", linewidth=0.8)
        axis.set(xscale="log", ylim=(0, 1), xlabel="tokens of a batch", title=f"tiles of {tile} rows")
    axes[0].set_ylabel("useful rows over computed rows")
    axes[0].legend(fontsize="small")
    save_figure(figure, path)


ROW = Row(name=NAME, measure=measure, page=page, draw=draw)
