#!/bin/bash
# All workers of a TPU slice run this at each boot, as root: it mounts the bucket, installs the code
# and starts the run, which the metadata name (launch/backends/tpu.py). Nothing here is secret.
# Its output: gcloud compute tpus tpu-vm ssh NAME --worker=N -- sudo journalctl -u google-startup-scripts
set -euo pipefail

metadata() {
  curl --silent --fail --retry 5 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
bucket=$(metadata bert-jax-bucket)
code=$(metadata bert-jax-code)
workdir=$(metadata bert-jax-workdir)
number=$(metadata bert-jax-number)
worker=$(metadata agent-worker-number) # number of the worker in the slice, from 0

state=/var/lib/bert_jax # of this machine
mkdir --parents "$state/code" "/gcs/$bucket"

if ! command -v gcsfuse; then # Cloud Storage FUSE documentation, "Install Cloud Storage FUSE"
  key=/usr/share/keyrings/cloud.google.asc
  curl --silent --fail --retry 5 https://packages.cloud.google.com/apt/doc/apt-key.gpg > "$key"
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" \
    > /etc/apt/sources.list.d/gcsfuse.list
  # A new machine may still be installing its own updates.
  apt-get -o DPkg::Lock::Timeout=300 update
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --yes gcsfuse
fi
# Without a metadata cache the hosts see each other's files at once.
mountpoint --quiet "/gcs/$bucket" ||
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "/gcs/$bucket"

if [ ! -e "$state/installed" ]; then
  tar --extract --gzip --file "/gcs/$bucket/$code" --directory "$state/code"
  python3 -m pip install --quiet uv # the machines' own Python is older than 3.11
  python3 -m uv venv --clear --python 3.12 "$state/venv"
  python3 -m uv pip install --python "$state/venv" --editable "$state/code[tpu]"
  touch "$state/installed"
fi

cd "$state/code"
starts=$(cat "$state/starts" 2> /dev/null || echo 0)
status=75
while [ "$status" -eq 75 ]; do # asked to stop, or another worker was lost: restart
  status=0
  "$state/venv/bin/python" -m launch.job --workdir="$workdir" --number="$number" \
    --host="$worker" --together=--processes=auto --restarts="$starts" || status=$?
  starts=$((starts + 1))
  echo "$starts" > "$state/starts"
done
exit "$status"
