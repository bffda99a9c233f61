import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for loss_references and loss_cases
