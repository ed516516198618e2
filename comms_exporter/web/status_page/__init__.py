"""The status page: what it shows (model), the order it shows it in (search), and its HTML (render)."""
