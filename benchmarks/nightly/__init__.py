"""The unattended night: measure, judge, test the law, publish, report."""
