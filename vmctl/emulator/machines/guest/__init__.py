"""What runs inside a machine: PID 1 and its helpers; standard library, Python 3.10 and later."""
