"""llama.cpp's converter, which takes any tokenizer: whoever feeds token ids needs no rule for splitting text.

python scripts/llama_convert.py CONVERTER CHECKPOINT [options of the converter]
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Runs the converter; it refuses tokenizers whose splitting of text it does not know."""
    converter = Path(sys.argv[1])
    sys.path.insert(0, str(converter.parent))
    from conversion.base import TextModel  # type: ignore[import-not-found, unused-ignore]

    known = TextModel.get_vocab_base_pre

    def known_or_default(model: Any, tokenizer: Any) -> str:
        try:
            return str(known(model, tokenizer))
        except NotImplementedError:
            return "default"

    TextModel.get_vocab_base_pre = known_or_default
    sys.argv = sys.argv[1:]
    runpy.run_path(str(converter), run_name="__main__")


if __name__ == "__main__":
    main()
