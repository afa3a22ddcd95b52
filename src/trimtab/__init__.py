"""trimtab makes AI models cheaper to train and to run, and certifies that they still do their job."""

__version__ = "0.1.0"
