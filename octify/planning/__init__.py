"""From rules and an alpha to a plan."""
