"""lm-eval's numbers over the server beside those that it computes with transformers, on the same weights.

    target/venv-reference/bin/python tests/clients/lm_eval_reference.py \
        --serve target/debug/arrcoc-serve --export target/debug/arrcoc-export

Runs in the environment of the reference, which has PyTorch; lm-eval comes from the clients' own
(`run.py --only lm_eval` makes it). Exit status 1 where a number differs.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# Both compute in fp32, and add up a few tokens.
TOLERANCE = 1e-4
PRESET = "qwen3-vl-tiny"
# What lm-eval's own model imports beside PyTorch, which these would bring once more.
BESIDE = ["accelerate==1.15.0", "psutil==7.2.2"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=pathlib.Path, required=True, help="the server's executable")
    parser.add_argument("--export", type=pathlib.Path, required=True, help="the exporter's executable")
    parser.add_argument("--preset", default=PRESET, help="which random weights")
    parser.add_argument(
        "--home", type=pathlib.Path, default=ROOT / "target/clients", help="where the clients are"
    )
    return parser.parse_args()


def with_transformers(checkpoint: pathlib.Path, tasks: list[dict]) -> dict:
    """What lm-eval finds with the model in this process."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    wrapped = HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        backend="causal",
        device="cpu",
        max_length=1024,
    )
    return lm_eval.simple_evaluate(wrapped, tasks=tasks, log_samples=True, bootstrap_iters=0)


def with_server(url: str, model: str, checkpoint: pathlib.Path, tasks: list[dict]) -> dict:
    """What lm-eval finds over completions, with token ids, its default."""
    import lm_eval

    found = {
        "model": model,
        "base_url": url + "/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(checkpoint),
        "max_length": 1024,
        "max_retries": 1,
    }
    return lm_eval.simple_evaluate(
        "local-completions", model_args=found, tasks=tasks, log_samples=True, bootstrap_iters=0
    )


def differences(ours: dict, theirs: dict) -> list[str]:
    """A line for every number or text of the two that differs."""
    from lm_eval_tasks import answers

    lines = []
    for task, results in theirs["results"].items():
        for name, value in results.items():
            if isinstance(value, float) and not math.isclose(
                value, ours["results"][task][name], abs_tol=1e-9
            ):
                lines.append(f"{task} {name}: {ours['results'][task][name]}, with transformers {value}")
        for at, (mine, other) in enumerate(zip(answers(ours, task), answers(theirs, task), strict=True)):
            if not same(mine, other):
                lines.append(f"{task} {at}: {mine}, with transformers {other}")
    return lines


def same(mine: list, other: list) -> bool:
    if isinstance(mine[0], str):
        return mine == other
    pairs = zip(mine, other, strict=True)
    return all(math.isclose(float(a[0]), float(b[0]), abs_tol=TOLERANCE) and a[1] == b[1] for a, b in pairs)


def beside(folder: pathlib.Path) -> pathlib.Path:
    """A folder with the few packages that neither environment has."""
    if not folder.exists():
        # The reference has no pip of its own.
        outer = pathlib.Path(sys.base_prefix, "bin/python3")
        pip = [outer, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", folder, *BESIDE], check=True)
    return folder


def main() -> int:
    options = arguments()
    packages = next((options.home / "venv-lm_eval/lib").glob("python*/site-packages"), None)
    if packages is None:
        raise SystemExit(
            f"expected lm-eval in {options.home}/venv-lm_eval; run `run.py --only lm_eval` first"
        )
    # Last: PyTorch and transformers are the reference's.
    sys.path += [str(packages), str(beside(options.home / "beside"))]
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(options.home / "huggingface")}
    from lm_eval_tasks import tasks
    from run import servers

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        checkpoint, configurations = folder / "model", tasks(folder)
        for command in (
            ["init", "--preset", options.preset, "--out", checkpoint],
            ["build", checkpoint, "--out", folder / "engines"],
        ):
            subprocess.run([options.export, *command], check=True, stdout=subprocess.DEVNULL)
        (bundle,) = (folder / "engines/model").glob("fp32-cpu")
        with servers(options.serve.resolve(), bundle, folder) as found:
            ours = with_server(found["ARRCOC_URL"], found["ARRCOC_MODEL"], checkpoint, configurations)
        theirs = with_transformers(checkpoint, configurations)
    print(json.dumps({task: ours["samples"][task][0]["filtered_resps"] for task in ours["samples"]}))
    lines = differences(ours, theirs)
    for line in lines:
        print("DIFFERS " + line)
    print(f"{sum(len(samples) for samples in ours['samples'].values())} documents, {len(lines)} differences")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
