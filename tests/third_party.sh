#!/bin/sh
# Opens a case with clients that know nothing of Okno but its address: they ask the node for its contracts by
# reflection. `buf curl` and Python's grpcio; whichever is not in PATH is installed into a virtual environment.
#
# Environment: OKNO_ENDPOINT (host:port), OKNO_CA, OKNO_CERT, OKNO_KEY (an officer's), OKNO_OFFICE, OKNO_SERVICE,
# OKNO_SNILS (a valid one), OKNO_TOOLS (a folder that may keep the virtual environment).
set -eu

fail() {
    echo "third_party.sh: $*" >&2
    exit 1
}

for name in OKNO_ENDPOINT OKNO_CA OKNO_CERT OKNO_KEY OKNO_OFFICE OKNO_SERVICE OKNO_SNILS OKNO_TOOLS; do
    eval "value=\${$name:-}"
    [ -n "$value" ] || fail "$name is not set"
done

command -v python3 >/dev/null || fail "python3 is needed (Debian: apt-get install python3 python3-venv)"
python=python3
buf=$(command -v buf || true)
if [ -n "$buf" ] && ! "$buf" --version >/dev/null 2>&1; then buf=; fi
if ! python3 -c 'import grpc, grpc_reflection' 2>/dev/null || [ -z "$buf" ]; then
    venv=$OKNO_TOOLS/venv
    if [ ! -x "$venv/bin/python3" ] || [ ! -e "$venv/complete" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "cannot make a virtual environment (Debian: apt-get install python3-venv)"
        "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check \
            grpcio==1.75.1 grpcio-reflection==1.75.1 buf-bin \
            || fail "cannot install grpcio, grpcio-reflection and buf-bin with pip"
        touch "$venv/complete"
    fi
    python=$venv/bin/python3
    [ -n "$buf" ] || buf=$venv/bin/buf
fi

# UUIDv7: milliseconds since 1970, version, random.
uuid7() {
    ms=$(printf '%012x' "$(date +%s%3N)")
    random=$(od -An -N9 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s-%s-7%s-8%s-%s\n' \
        "$(echo "$ms" | cut -c1-8)" "$(echo "$ms" | cut -c9-12)" \
        "$(echo "$random" | cut -c1-3)" "$(echo "$random" | cut -c4-6)" "$(echo "$random" | cut -c7-18)"
}

call() { # method, request
    "$buf" curl --protocol grpc --cacert "$OKNO_CA" --cert "$OKNO_CERT" --key "$OKNO_KEY" \
        --data "$2" "https://$OKNO_ENDPOINT/okno.v1.CaseService/$1"
}

opened=$(call OpenCase "{
  \"meta\": {\"requestId\": \"$(uuid7)\"},
  \"office\": \"$OKNO_OFFICE\",
  \"service\": \"$OKNO_SERVICE\",
  \"applicants\": [{\"person\": {
    \"name\": {\"lastName\": \"Посетителев\", \"firstName\": \"Пример\"},
    \"birthDate\": \"1980-02-29\",
    \"snils\": \"$OKNO_SNILS\",
    \"identity\": {\"kind\": \"passport\", \"series\": \"0000\", \"number\": \"000001\",
                   \"issuedOn\": \"2010-03-01\", \"issuedBy\": \"Вымышленным отделом\"}
  }}]
}") || fail "buf curl could not open a case"
case=$(printf '%s' "$opened" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["caseId"])') \
    || fail "buf curl: no case id in $opened"
call GetCase "{\"caseId\": \"$case\"}" | grep -q CASE_STATE_DRAFT || fail "buf curl does not see case $case"
echo "buf curl opened case $case"

"$python" "$(dirname "$0")/third_party.py" || fail "grpcio could not open a case"
