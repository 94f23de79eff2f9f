"""The engine runs where only torch, numpy, safetensors, tokenizers and jinja2 are installed (a GPU machine without the rest)."""

import subprocess
import sys

BLOCKED = (
    *("typer", "rich", "pydantic", "fastapi", "uvicorn", "starlette", "msgspec", "zmq", "prometheus_client", "httpx"),
    *("transformers", "huggingface_hub", "gguf", "sentencepiece", "openai", "psutil"),
)

SCRIPT = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it now fails
from slipstream import LLM, AsyncLLM, SamplingParams
output = LLM("dummy:tiny:fp32").generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))[0]
print(len(output.outputs[0].token_ids))
"""


def test_without_the_libraries_of_cli_and_server():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "4", done.stderr
