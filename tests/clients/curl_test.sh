#!/bin/bash
# curl against a running cluster: LONGSHELF_URL, LONGSHELF_KEY, LONGSHELF_MODEL.
set -euo pipefail
auth=(-H "Authorization: Bearer $LONGSHELF_KEY")
question='{"messages":[{"role":"user","content":"What is the capital of Finland?"}],"temperature":0}'

fail() { echo "$1"; exit 1; }
expect_status() {
  local want=$1; shift
  local got
  got=$(curl -sS -m 60 -o /dev/null -w '%{http_code}' "$@") || true
  [[ $got == "$want" ]] || fail "expected $want, got $got: ${*: -1}"
}

expect_status 200 "$LONGSHELF_URL/healthz"
expect_status 200 "$LONGSHELF_URL/livez"
expect_status 200 "$LONGSHELF_URL/readyz"
expect_status 401 "$LONGSHELF_URL/v1/models"
expect_status 401 "$LONGSHELF_URL/metrics"
expect_status 200 "${auth[@]}" "$LONGSHELF_URL/v1/models"
expect_status 200 "${auth[@]}" "$LONGSHELF_URL/v1/models/$LONGSHELF_MODEL"
expect_status 404 "${auth[@]}" "$LONGSHELF_URL/v1/models/other"
expect_status 405 "${auth[@]}" -X DELETE "$LONGSHELF_URL/v1/models"
expect_status 400 "${auth[@]}" -d '{' "$LONGSHELF_URL/v1/chat/completions"
expect_status 401 -d "$question" "$LONGSHELF_URL/v1/chat/completions"

whole=$(curl -sS -m 60 "${auth[@]}" -d "$question" "$LONGSHELF_URL/v1/chat/completions")
[[ $whole == *'"finish_reason":"stop"'* && $whole == *'"prompt_cache_miss_tokens"'* ]] || fail "$whole"
stream=$(curl -sSN -m 60 "${auth[@]}" -d "${question%\}},\"stream\":true}" "$LONGSHELF_URL/chat/completions")
[[ $stream == *$'data: [DONE]'* && $stream == *'"reasoning_content":""'* ]] || fail "$stream"

# A body that curl announces with Expect: 100-continue, and a chunked one.
large=$(mktemp); trap 'rm -f "$large"' EXIT
printf '{"prompt":"%s","max_tokens":1}' "$(head -c 1500000 /dev/zero | tr '\0' 'a')" > "$large"
expect_status 400 "${auth[@]}" -H 'Expect: 100-continue' --data-binary "@$large" "$LONGSHELF_URL/v1/completions"
expect_status 200 "${auth[@]}" -H 'Transfer-Encoding: chunked' -d '{"prompt":"Hello","max_tokens":1}' \
  "$LONGSHELF_URL/v1/completions"
head -c 17000000 /dev/zero | tr '\0' ' ' > "$large"
expect_status 413 "${auth[@]}" --data-binary "@$large" "$LONGSHELF_URL/v1/completions"
expect_status 431 "${auth[@]}" -H "X-Large: $(head -c 17000 /dev/zero | tr '\0' 'a')" "$LONGSHELF_URL/v1/models"
echo "curl is content"
