"""What the service does; imports the standard library only."""
