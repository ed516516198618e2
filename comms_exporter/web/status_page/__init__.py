"""The status page: what it shows (model), the order it shows it in (search), its HTML (render), and how it is served (page)."""
