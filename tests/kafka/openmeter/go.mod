module tallyd.io/tests/openmeter

go 1.25.6

require github.com/openmeterio/openmeter v1.0.0-beta.232
