"""Clients that generators make of /openapi.json, in Python and in TypeScript, ask a real service."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Stack

pytestmark = pytest.mark.slow

PYTHON = """
import sys
from io import BytesIO
from sentiment_neuron_client import Client
from sentiment_neuron_client.api.batches import create_batch
from sentiment_neuron_client.api.inference import classify, featurize, generate, trace
from sentiment_neuron_client.api.openai import create_embeddings_v1
from sentiment_neuron_client.api.service import list_models
from sentiment_neuron_client.models import (
    ClassifyRequest, ClassifyResponse, EmbeddingsRequest, FeaturizeRequest, GenerateRequest, Problem, TraceRequest,
)
from sentiment_neuron_client.types import File

client = Client(sys.argv[1])
answer = classify.sync(client=client, body=ClassifyRequest(texts=["Good.", "Bad."]))
assert isinstance(answer, ClassifyResponse), answer
print([result.label for result in answer.results])
print(len(featurize.sync(client=client, body=FeaturizeRequest(text="Good.")).results[0].features))
print(len(generate.sync(client=client, body=GenerateRequest(length=5, stop=[], seed=1)).results))
print(trace.sync(client=client, body=TraceRequest(text="Good.")).units)
print(list_models.sync(client=client).models[0].name)
print(len(create_embeddings_v1.sync(client=client, body=EmbeddingsRequest(model="tiny", input_="Good.")).data))
lines = b'{"url": "/classify", "body": {"text": "Good."}}\\n' * 2
batch = create_batch.sync(client=client, body=File(BytesIO(lines)))
print(batch.lines)
refused = classify.sync(client=client, body=ClassifyRequest(texts=[""]))
assert isinstance(refused, Problem)
print(refused.status)
"""
TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { paths } from "./schema";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const { data, error } = await client.POST("/classify", { body: { texts: ["Good.", "Bad."] } });
if (error || !("results" in data)) throw error;
for (const result of data.results) if ("label" in result) console.log(result.label, result.score > 0);
const traced = await client.POST("/trace", { body: { text: "Good.", offsets: "utf-16" } });
if (typeof traced.data === "object" && "bytes" in traced.data) console.log(traced.data.bytes.length);
const { data: read } = await client.POST("/featurize", { body: { texts: ["Good."] } });
if (typeof read === "object" && "results" in read) console.log(read.results.length);
const { data: written } = await client.POST("/generate", { body: { prompt: "Good", length: 4 } });
if (written && "seed" in written) console.log(written.results.length);
const refused = await client.POST("/classify", { body: { texts: [""] } });
console.log(refused.error?.status);
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_python(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    tools = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)  # it formats by ruff
    generate = tools / "openapi-python-client", "generate", "--url", f"{stack.url}/openapi.json"
    said = run(*generate, "--output-path", made, cwd=tmp_path)
    # It knows no JSON lines, and takes the other form of the body; nothing else is left out.
    assert re.findall("WARNING (.*)", said) == ["parsing POST /batches within batches."], said
    assert said.count("Unsupported content") == said.count("Unsupported content type application/x-ndjson") == 1
    printed = run(sys.executable, "-c", PYTHON, stack.url, cwd=made).splitlines()
    assert printed[1:] == ["48", "1", "[5]", "tiny", "1", "2", "422"]


def test_typescript(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    packages = ["openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3", "@types/node@22"]
    run("npm", "install", "--silent", "--no-fund", *packages, cwd=tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "client.ts").write_text(TYPESCRIPT)
    # What has a default may be left out of a request.
    options = ["--default-non-nullable", "false", "--output", "schema.d.ts"]
    run("npx", "openapi-typescript", f"{stack.url}/openapi.json", *options, cwd=tmp_path)
    compiler = ["--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    run("npx", "tsc", *compiler, "--skipLibCheck", "--types", "node", "client.ts", cwd=tmp_path)
    first, second, *rest = run("node", "client.js", stack.url, cwd=tmp_path).splitlines()
    assert first.endswith("true")
    assert second.endswith("true")
    assert rest == ["8", "1", "1", "422"]
