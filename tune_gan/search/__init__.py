"""What a sweep may say, how it is drawn and run. The only folder that imports ray or optuna."""
