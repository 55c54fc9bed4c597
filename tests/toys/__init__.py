"""A family of encoders, a head and a task, each in one file, as CONTRIBUTING.md says to add them: nothing inside the
package knows of them."""
