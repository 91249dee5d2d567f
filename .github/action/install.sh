#!/usr/bin/env bash
# Step of action.yml: gets the program and says where it is. From the release by its checksum; from source where there is no such release.
# A release that is there and does not fit its checksum is an error, and never a reason to go on.
set -euo pipefail

: "${GITHUB_ACTION_PATH:?}" "${GITHUB_OUTPUT:?}" "${RUNNER_TEMP:?}"
version=${VERSION:-}
releases=${RELEASES:-https://github.com/${REPOSITORY:-}/releases/download}
dir=$RUNNER_TEMP/leakcheck
mkdir -p "$dir"

if [ -z "$version" ]; then
    own=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$GITHUB_ACTION_PATH/Cargo.toml" | head -n 1)
    wanted=v$own
else
    wanted=$version
fi
name=leakcheck-$(uname -m)-linux

fetch() { curl --fail --silent --show-error --location --retry 3 --output "$dir/$1" "$releases/$wanted/$1"; }

from_source() {
    command -v cargo >/dev/null || { echo "::error::there is no release $wanted of leakcheck to be had, and no cargo to build it"; exit 2; }
    cargo install --quiet --locked --root "$dir" --path "$GITHUB_ACTION_PATH"
    echo "program=$dir/bin/leakcheck" >>"$GITHUB_OUTPUT"
}

if [ "$version" = source ]; then
    from_source
elif fetch SHA256SUMS && fetch "$name"; then
    # The list has the names of all architectures; this one has to be among them.
    (cd "$dir" && grep -E "^[0-9a-f]{64}  $name\$" SHA256SUMS | sha256sum --check --strict -) || {
        echo "::error::$name of $wanted does not fit its checksum"
        exit 2
    }
    chmod +x "$dir/$name"
    echo "program=$dir/$name" >>"$GITHUB_OUTPUT"
elif [ -n "$version" ]; then
    echo "::error::there is no release $version of leakcheck for $(uname -m) at $releases"
    exit 2
else
    echo "there is no release $wanted to be had: leakcheck is built from source"
    from_source
fi
