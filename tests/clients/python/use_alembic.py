"""Alembic: two revisions upgraded to, the second one taken back and made again."""
import os
import pathlib
import tempfile

import alembic
from alembic import command
from alembic.config import Config

ENV = """
from alembic import context
import os, sqlalchemy
from urllib.parse import quote
url = f"postgresql+psycopg://postgres@{os.environ['HOST']}:{os.environ['PORT']}/{quote(os.environ['DATABASE'], safe='')}?application_name=alembic"
with sqlalchemy.create_engine(url).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
revision = {revision!r}
down_revision = {down!r}
def upgrade():
    {up}
def downgrade():
    {back}
"""
with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "versions").mkdir()
    (root / "env.py").write_text(ENV)
    (root / "versions" / "one.py").write_text(REVISION.format(
        revision="one_items", down=None, back="op.drop_table('alembic_item')",
        up="op.create_table('alembic_item', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.Text))"))
    (root / "versions" / "two.py").write_text(REVISION.format(
        revision="two_prices", down="one_items", back="op.drop_index('alembic_item_name'); op.drop_column('alembic_item', 'price')",
        up="op.add_column('alembic_item', sa.Column('price', sa.Numeric)); op.create_index('alembic_item_name', 'alembic_item', ['name'])"))
    config = Config()
    config.set_main_option("script_location", str(root))
    command.upgrade(config, "head")
    command.downgrade(config, "-1")
    command.upgrade(config, "head")
print("version", alembic.__version__)
