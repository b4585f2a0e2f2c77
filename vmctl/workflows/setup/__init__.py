"""Before and around the work: init, doctor, the emulator, completion, --print-gcloud."""
