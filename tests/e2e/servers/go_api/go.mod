module tally.test/go_api

go 1.19
