#!/usr/bin/env bash
# Fetches the landscape photos into data/landscapes at the project's root. Run it from anywhere and
# as often as you like: what is there is kept, what was cut off goes on where it stopped.
#
#   scripts/download_landscapes.sh
#   LANDSCAPES_URL=http://host/photos.zip scripts/download_landscapes.sh
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
url=${LANDSCAPES_URL:-https://github.com/ml5js/ml5-data-and-models/raw/master/datasets/images/landscapes/landscapes_small.zip}

if ! command -v python3 >/dev/null; then
    echo "download_landscapes: python3 is needed to fetch and unpack the photos" >&2
    exit 1
fi
exec python3 -I "$here/download_landscapes.py" "$url" "$here/../data/landscapes"
