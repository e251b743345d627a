"""Has lm-evaluation-harness score text through OpenAI's interface; compares with this project's perplexity.

    pip install 'lm_eval[api]' transformers       # in an environment of its own
    python scripts/score_with_harness.py engines/SmolLM2/cpu-fp32 --lm-eval /path/to/bin/lm_eval

Paragraphs of the held-out text are documents of a task; the harness asks `local-completions` how likely all
tokens behind the first are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from r1trt.data import HELDOUT
from r1trt.evaluate.compare import compare
from r1trt.evaluate.models import model_from_session
from r1trt.evaluate.windows import windows_from_ids
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir
from r1trt.triton_server.serve import ServeConfig, ServedModels, served_models
from r1trt.triton_server.served_models import EngineToServe

TASK = """\
task: heldout
dataset_path: json
dataset_kwargs: {{data_files: {{test: {documents}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{first}}}}"
doc_to_target: "{{{{rest}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
LEAST, MOST = 16, 200
PORTS = range(20000, 32000)


def paragraphs(tokenizer: TextTokenizer, count: int) -> Iterator[tuple[str, str, list[int]]]:
    """First token, the rest, and all tokens of paragraphs that the harness cuts in the same place."""
    for paragraph in HELDOUT.read_text(encoding="utf-8").split("\n\n"):
        text = " ".join(paragraph.split())
        ids = tokenizer.encode(text)
        first = tokenizer.decode(ids[:1])
        if LEAST <= len(ids) <= MOST and tokenizer.encode(first) == ids[:1] and not first.endswith(" "):
            yield first, text[len(first) :], ids
            count -= 1
        if not count:
            return


def own_perplexity(engine: Path, documents: list[list[int]]) -> tuple[float, int]:
    """Perplexity of all documents together, and how many tokens are predicted."""
    session = serving_session(engine, 1)
    model = model_from_session(session)
    windows = windows_from_ids(documents, size=MOST, max_tokens=sum(map(len, documents)))
    perplexity = compare(model, model, windows).logits.perplexity_reference
    session.close()
    return perplexity, sum(len(ids) - 1 for ids in documents)


def harness_log_likelihood(
    arguments: argparse.Namespace, model: ServedModels, directory: Path
) -> tuple[float, int]:
    """The sum over the documents, as the harness logs it, and how many they are."""
    served = f"base_url=http://{model.openai}/v1/completions,model={model.name}"
    tokenizer = f"tokenizer={arguments.engine.resolve()},tokenizer_backend=huggingface"
    command = [
        arguments.lm_eval, "--model", "local-completions", "--tasks", "heldout", "--include_path", directory,
        "--model_args", f"{served},{tokenizer},num_concurrent=4,max_retries=1",
        "--batch_size", "4", "--output_path", directory / "results", "--log_samples",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(directory / "cache")}
    environment.pop("PYTHONPATH", None)
    subprocess.run([str(part) for part in command], check=True, cwd=directory, env=environment)
    (samples,) = (directory / "results").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    return sum(float(sample["resps"][0][0][0]) for sample in found), len(found)


def main() -> None:
    """Prints both perplexities as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--lm-eval", default="lm_eval", help="the harness's command")
    parser.add_argument("--documents", type=int, default=12)
    arguments = parser.parse_args()
    documents = list(paragraphs(tokenizer_from_dir(arguments.engine), arguments.documents))
    http, grpc, metrics, openai = random.sample(PORTS, 4)
    config = ServeConfig(
        engines=(EngineToServe(path=arguments.engine),),
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        openai_port=openai,
    )
    with TemporaryDirectory() as path, served_models(config) as model:
        directory = Path(path)
        lines = [json.dumps({"first": first, "rest": rest}) for first, rest, _ in documents]
        (directory / "documents.jsonl").write_text("\n".join(lines))
        (directory / "heldout.yaml").write_text(TASK.format(documents=directory / "documents.jsonl"))
        log_likelihood, count = harness_log_likelihood(arguments, model, directory)
    perplexity, tokens = own_perplexity(arguments.engine, [ids for _, _, ids in documents])
    result = {
        "documents": count,
        "predicted_tokens": tokens,
        "perplexity_evaluate": perplexity,
        "perplexity_harness": math.exp(-log_likelihood / tokens),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
