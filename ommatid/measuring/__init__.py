"""What a number is measured with: time, memory, operations, this machine, and the peers we are measured against."""
