#!/usr/bin/env bash
# Fetches the landscape photos into data/landscapes at the project's root. Run it from anywhere and
# as often as you like: what is there is kept, what was cut off goes on where it stopped.
#
#   scripts/download_landscapes.sh
#   LANDSCAPES_URL=http://host/photos.zip scripts/download_landscapes.sh
#
# Without LANDSCAPES_URL these are about 4,000 photos of a public data set, or, while its server does
# not answer, the 234 of workload/landscapes. Run it again later: the one set replaces the other.
set -euo pipefail

if [ $# -gt 0 ]; then
    case "$1" in
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
    esac
    echo "download_landscapes: takes no arguments, only --help and LANDSCAPES_URL" >&2
    exit 2
fi
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname -- "$here")
if ! command -v python3 >/dev/null; then
    echo "download_landscapes: python3 is needed to fetch and unpack the photos" >&2
    exit 1
fi
photos=("${LANDSCAPES_URL:-}")
if [ -z "${photos[0]}" ]; then
    photos=(
        https://github.com/ml5js/ml5-data-and-models/raw/master/datasets/images/landscapes/landscapes_small.zip
        --substitute "$root/workload/landscapes"
    )
fi
exec python3 -I "$here/download_landscapes.py" "${photos[@]}" "$root/data/landscapes"
