"""Times torch.onnx.export of transformers' SAM-base vision encoder (random weights), for comparison with arrcoc-export.

    python export_sam.py [--image-size 1024]

Prints JSON: seconds of the export alone, bytes written, and the process's peak resident memory.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from transformers import SamVisionConfig, SamVisionModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=1024)
    args = parser.parse_args()
    torch.set_num_threads(2)

    config = SamVisionConfig(image_size=args.image_size)  # the defaults are SAM-base
    config._attn_implementation = "eager"  # the exporter of torch 2.15 fails on a view in transformers' SDPA attention
    model = SamVisionModel(config).eval()
    pixel_values = torch.zeros(1, 3, args.image_size, args.image_size)
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        torch.onnx.export(
            model,
            (pixel_values,),
            Path(directory) / "sam.onnx",
            input_names=["pixel_values"],
            output_names=["image_features"],
            external_data=True,
            dynamo=True,
            verbose=False,
        )
        seconds = time.perf_counter() - start
        written = sum(file.stat().st_size for file in Path(directory).iterdir())
    report = {
        "torch": torch.__version__,
        "image_size": args.image_size,
        "seconds": round(seconds, 2),
        "bytes": written,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
