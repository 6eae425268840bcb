"""The first commands of somebody who has just installed the package."""
