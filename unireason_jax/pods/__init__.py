"""What joins devices and hosts: where arrays live, what processes tell each other, alarms."""
