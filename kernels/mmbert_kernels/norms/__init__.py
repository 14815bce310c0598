"""Layer norms with what lies around them: residual addition, dropout, embedding."""
