"""What people look at: layout, figures, the report, exports, the notebook view."""
