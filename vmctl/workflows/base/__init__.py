"""What every command needs: the API, waiting for operations, agreements, background tasks."""
