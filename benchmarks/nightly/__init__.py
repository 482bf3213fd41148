"""The unattended night: measure, compare, test the law of K, publish and report, without losing a result.

job         one night at a time, and a report whatever happens
night       the steps in their order
journal     the report and the stored state, committed after every step
measuring   the newest commit and those that earlier nights missed
bases       the commits that HEAD is compared with
steps, law  the commands of the steps, each in a process of its own
findings, github_issues    the results for the dashboard and for GitHub issues
report, state    the summary of a night, and the state that it stores for the next one
branch, remote, worktree, repository, merging    the branch that keeps the results
"""
