"""Whether builds are finished and belong together."""

from __future__ import annotations

from collections.abc import Sequence

from r1trt.arch import LIBRARIES
from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.errors import BuildError
from r1trt.files import is_there
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

# What has to be equal for engines to be one model's on different GPUs.
_SHARED = ("backend", "cache", "capacity", "max_batch_size", "max_input_len", "last_token_logits")


def require_tokenizer(build: BuildArtifact) -> None:
    """Refuses a build that is to generate text and cannot read any.

    Raises:
        BuildError: It has no tokenizer.
        CheckpointError: Its tokenizer is damaged.
    """
    if not build.manifest.cache:
        return
    if not is_there(build.tokenizer):
        raise BuildError(
            "The build has no tokenizer, without which a server cannot load it.",
            where=build.tokenizer,
            fix="put the model's tokenizer.json there; transformers writes it with "
            "AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(DIRECTORY)",
        )
    tokenizer_from_dir(build.path)


def require_one_model(builds: Sequence[BuildArtifact]) -> None:
    """Refuses builds that are not one model's for different processors.

    Raises:
        BuildError: Says what differs.
    """
    for build in builds:
        _require_constant_experts(build)
        _require_same_options(build, builds[0])
        _require_same_libraries(build, builds[0])
    sms = [entry.sm for build in builds for entry in build.manifest.engines]
    doubled = {sm for sm in sms if sms.count(sm) > 1}
    if doubled:
        raise BuildError(
            "More than one of the builds is for the same processor.",
            where=", ".join(str(build.path) for build in builds),
            found=", ".join("a CPU" if sm is None else f"SM{sm}" for sm in sorted(doubled, key=str)),
        )


def _require_constant_experts(build: BuildArtifact) -> None:
    parts = PartsArtifact.of(build).parts() if build.manifest.parts else (build,)
    bound = [part for part in parts if part.manifest.external_experts is not None]
    if bound:
        raise BuildError(
            "The build's engine reads its experts from the checkpoint, which no package and no server has.",
            where=bound[0].path,
            found="experts that are inputs",
            fix="build with --no-external-experts; r1trt generate and chat run the build as it is",
        )


def _require_same_options(build: BuildArtifact, first: BuildArtifact) -> None:
    found, expected = (_options(each) for each in (build, first))
    different = [name for name in expected if found[name] != expected[name]]
    if different:
        name = different[0]
        raise BuildError(
            "The builds do not belong together.",
            where=build.path,
            found=f"{name} {found[name]}",
            expected=f"{expected[name]}, as in {first.path}",
            fix="build the same export with the same options for every architecture",
        )


def _options(build: BuildArtifact) -> dict[str, object]:
    # The model's hash and not the graph's: each architecture's precision gives it another.
    shared = {name: getattr(build.manifest, name) for name in _SHARED}
    return {**shared, "model_hash": build.manifest.source.model_hash}


def _require_same_libraries(build: BuildArtifact, first: BuildArtifact) -> None:
    if build.manifest.embeds_plugins != first.manifest.embeds_plugins:
        raise BuildError(
            "Only some of the engines carry their plugins.",
            where=build.path,
            fix="build all with --embed-plugins, or none",
        )
    library = LIBRARIES[first.manifest.backend].package
    found, expected = (each.manifest.versions.get(library) for each in (build, first))
    if found != expected:
        raise BuildError(
            "The builds need different TensorRT versions, and a server has one.",
            where=build.path,
            found=f"{library} {found}",
            expected=f"{library} {expected}",
        )
