"""Ten minutes of a search that coverage guides, beginning with the golden files."""

import re
import subprocess
import sys

import pytest
from golden_files import FILES, TESTS, golden

SEARCH_S = 600
MEMORY_MIB = 512 + 64  # the interpreter's own, with NumPy and the fuzzer, are some 64


@pytest.mark.slow
@pytest.mark.timeout(2 * SEARCH_S)
def test_the_search_finds_no_file_that_is_neither_decoded_nor_refused(tmp_path):
    pytest.importorskip("atheris", reason="needs atheris: pip install 'mrc_jax[fuzz]'")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, facts in FILES.items():
        if facts["file_bytes"] < 400:
            (corpus / name).write_bytes(golden(name)[0][:-4])
    flags = [f"-max_total_time={SEARCH_S}", f"-rss_limit_mb={MEMORY_MIB}", "-malloc_limit_mb=512"]
    flags += ["-timeout=20", "-seed=1", "-max_len=600", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [sys.executable, str(TESTS / "fuzz_decode.py"), str(corpus), *flags],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=SEARCH_S + 300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    runs, seconds = re.findall(r"^Done (\d+) runs in (\d+) second", done.stderr, re.MULTILINE)[0]
    print(f"{runs} files in {seconds} s, {len(list(corpus.iterdir()))} kept")
    assert int(seconds) >= SEARCH_S and int(runs) > 10_000
