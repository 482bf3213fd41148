"""The regression gate: is one version slower than another?"""
