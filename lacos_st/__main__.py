"""`python -m lacos_st`, the same as `lacos-st`."""

import sys

from lacos_st.cli import main

if __name__ == "__main__":
    sys.exit(main())
