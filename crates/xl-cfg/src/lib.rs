//! xl.cfg: lexer, parser, typed configuration, diagnostics with line and column.
