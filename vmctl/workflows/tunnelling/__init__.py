"""The tunnels that are open on this computer, and the records by which they are found."""
