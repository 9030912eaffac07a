"""From stored results to what a person reads: tables, comparisons, reports."""
