"""Keep one comment on a pull request up to date: GitHub's REST API by the standard library.

python comment.py SUMMARY.md, with GITHUB_API_URL, GITHUB_REPOSITORY, GITHUB_TOKEN, PULL_REQUEST and
NAME in the environment. Never fails a run: a pull request from a fork has a token that may not
write, and the summary is in the run as well.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 60_000
"""GitHub refuses a comment of more than 65536."""

PAGES = 10
"""Of 100 comments each; in a longer discussion a new comment is made."""


def ask(method: str, url: str, token: str, body: Mapping[str, str] | None = None) -> Any:
    """One request; what was answered, from JSON."""
    request = urllib.request.Request(
        url,
        method=method,
        data=json.dumps(body).encode() if body else None,
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def comment(text: str, environ: Mapping[str, str]) -> str:
    """Write the comment, over the one that an earlier run wrote; return its address."""
    repository = f"{environ['GITHUB_API_URL']}/repos/{environ['GITHUB_REPOSITORY']}"
    thread = f"{repository}/issues/{environ['PULL_REQUEST']}/comments"
    token = environ["GITHUB_TOKEN"]
    marker = f"<!-- latency-gate: {environ['NAME']} -->"
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}\n\n(cut off; the whole of it is in the run)"
    body = {"body": f"{marker}\n{text}"}
    for page in range(1, PAGES + 1):
        found = ask("GET", f"{thread}?per_page=100&page={page}", token)
        for one in found:
            # anybody may write the marker, but only the token's own comments can be changed
            if (one.get("body") or "").startswith(marker) and one["user"]["type"] == "Bot":
                changed = ask("PATCH", f"{repository}/issues/comments/{one['id']}", token, body)
                return str(changed["html_url"])
        if len(found) < 100:
            break
    return str(ask("POST", thread, token, body)["html_url"])


def main() -> None:
    """Write the comment, or warn that it could not be."""
    try:
        address = comment(Path(sys.argv[1]).read_text(), os.environ)
    except urllib.error.HTTPError as error:
        why = f"GitHub answered {error.code}; the job needs `permissions: pull-requests: write`"
        print(f"::warning title=latency-gate::no comment was written: {why}")
    except (OSError, ValueError, KeyError) as error:
        why = type(error).__name__
        print(f"::warning title=latency-gate::no comment was written ({why})")
    else:
        print(f"the comment is {address}")


if __name__ == "__main__":
    main()
