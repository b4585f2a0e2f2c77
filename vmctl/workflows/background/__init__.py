"""Work that goes on beside a story: a question that is asked, a story that is told."""
