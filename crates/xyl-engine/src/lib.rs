//! A VM's life: create, destroy and all between, in named steps with their undo.
