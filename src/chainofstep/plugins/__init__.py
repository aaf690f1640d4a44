"""Step rewards for trainers of other projects: verl and ms-swift (docs/sharing.md).

They import nothing of those projects, only meet their call signatures.
"""
